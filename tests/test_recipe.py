"""Recipes: every problem at once, with its line; every value with its source."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainer.errors import RecipeError
from trainer.recipe import Recipe, described, flat_values, load_recipe, recipe_files


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", sorted(recipe_files()))
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load_recipe(name).recipe.name == name


def test_there_is_a_default_recipe() -> None:
    assert "portrait-tiny" in recipe_files()


def test_every_field_is_documented() -> None:
    documented = dict(described())
    assert set(documented) == set(flat_values(Recipe()))
    assert all(documented.values())


def test_all_problems_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "name: mine\nfit:\n  stepz: 3\n  rank: -1\nfaces:\n  judge: nobody\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["fit.steps=many"])
    problems = "\n".join(caught.value.problems)
    assert f"{path}:3: fit.stepz: unknown key" in problems
    assert f"{path}:4: fit.rank" in problems
    assert f"{path}:6: faces.judge" in problems
    assert "--set fit.steps" in problems


def test_the_judge_must_not_be_the_gate(tmp_path: Path) -> None:
    path = write(tmp_path, "faces: {gate: onnx, judge: onnx}\n")
    with pytest.raises(RecipeError, match=r"judge: must differ"):
        load_recipe(path)


def test_a_framing_is_asked_for_once(tmp_path: Path) -> None:
    path = write(tmp_path, "prepare: {framings: [face, half-body, face]}\n")
    with pytest.raises(RecipeError, match="names a framing twice"):
        load_recipe(path)
    assert load_recipe("portrait-tiny", ["prepare.framings=[half-body]"]).recipe.prepare.framings == ["half-body"]


def test_an_override_wins_and_says_so() -> None:
    layered = load_recipe("portrait-tiny", ["fit.rank=8"])
    assert layered.recipe.fit.rank == 8
    assert layered.sources["fit.rank"] == "flag"
    assert layered.sources["faces.gate"] == "recipe"
    assert "fit.steps" not in layered.sources


def test_the_hash_follows_the_values() -> None:
    assert load_recipe("portrait-tiny").recipe.sha256() == Recipe().sha256()
    assert load_recipe("portrait-tiny", ["fit.rank=8"]).recipe.sha256() != Recipe().sha256()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("nope")
    assert "portrait-tiny" in caught.value.hint


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = write(tmp_path, "name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RecipeError, match="not readable as YAML"):
        load_recipe(path)


YAMLISH = st.text(alphabet="!&*{}[]:,-? 0129.ae\"'%@|>\n~<=", max_size=30)


@example("fit.rank=2026-99-99")
@example("fit.rank=[")
@given(st.one_of(st.text(max_size=60), YAMLISH.map("fit.rank=".__add__), YAMLISH.map("fit=".__add__)))
def test_any_override_loads_or_is_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):  # anything else that escapes fails the test
        load_recipe("portrait-tiny", [text])


@given(st.one_of(st.binary(max_size=200), YAMLISH.map(str.encode)))
def test_any_file_loads_or_is_a_recipe_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    path.write_bytes(data)
    with contextlib.suppress(RecipeError):
        load_recipe(str(path))


def refused(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe("portrait-tiny", overrides)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["fit.init=pissa"], "fit.init: pissa is for linear layers"),
        (["fit.init=olora", "fit.targets=attention", "fit.adapter=dora", "export.kohya=false"], "fit.init: olora"),
        (["fit.init=pissa", "fit.targets=[to_q]", "fit.warm_start=a"], "fit.warm_start: a start of its own"),
        (["fit.init=pissa", "fit.targets=[to_q]", "base.quantize=nf4"], "fit.init: pissa takes apart"),
        (["fit.warm_start=nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["fit.weighting=min_snr"], "fit.min_snr_gamma: goes with"),
        (["fit.min_snr_gamma=5"], "fit.min_snr_gamma: goes with"),
        (["fit.optimizer=prodigy"], "fit.learning_rate: Prodigy"),
        (["fit.optimizer=prodigy", "fit.learning_rate=1", "fit.lora_plus_ratio=4"], "fit.lora_plus_ratio: Prodigy"),
        (["fit.adapter=dora"], "export.kohya: .*DoRA"),
        (["fit.rank_pattern={conv1: 8}"], "export.kohya: .*ranks differ"),
        (["fit.rank_pattern={'conv1;': 8}"], "fit.rank_pattern"),
        (["fit.rank_pattern={conv1: 0}"], "fit.rank_pattern"),
        (["fit.targets=everything"], "--set fit.targets: .*attention"),
        (["fit.targets=[]"], "--set fit.targets: .*attention"),
        (["fit.targets=[1]"], "--set fit.targets: .*attention"),
        (["fit.targets=['to_q(']"], "--set fit.targets: .*attention"),
        (["fit.ema_decay=1"], "fit.ema_decay"),
    ],
)
def test_choices_of_fit_that_exclude_each_other(overrides: list[str], said: str) -> None:
    assert re.search(said, refused(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["fit.init=pissa", "fit.targets=attention", "fit.adapter=rslora"],
        ["fit.init=olora", "fit.targets=[to_q, attn2.to_k]"],
        ["fit.adapter=dora", "export.kohya=false", "fit.dropout=0.1", "fit.ema_decay=0.99"],
        ["fit.rank_pattern={attn2.to_k: 8, mid_block.*: 4}", "export.kohya=false"],
        ["fit.optimizer=prodigy", "fit.learning_rate=1", "fit.schedule=constant"],
        ["fit.weighting=min_snr", "fit.min_snr_gamma=5", "fit.accumulation=4", "fit.gradient_checkpointing=true"],
        ["fit.weighting=debiased", "fit.optimizer=lion", "fit.lora_plus_ratio=16"],
    ],
)
def test_choices_of_fit_that_go_together(overrides: list[str]) -> None:
    recipe = load_recipe("portrait-tiny", overrides).recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe  # as a lock is read


def test_a_mapping_is_one_value_with_one_source(tmp_path: Path) -> None:
    path = write(tmp_path, "fit:\n  rank_pattern:\n    attn2.to_k: 8\nexport: {kohya: false}\n")
    layered = load_recipe(path)
    assert layered.sources["fit.rank_pattern"] == "recipe"
    assert flat_values(layered.recipe)["fit.rank_pattern"] == {"attn2.to_k": 8}
    flagged = load_recipe("portrait-tiny", ["fit.rank_pattern={to_k: 4}", "export.kohya=false"])
    assert flagged.sources["fit.rank_pattern"] == "flag"
    assert set(flat_values(flagged.recipe)) == set(dict(described()))
