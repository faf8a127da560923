"""A word with vectors of its own: they alone learn, and every stock pipeline takes them and draws the same."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Command, hashes, interrupted_at, write_samples
from test_processes import launched
from test_resume import SETTINGS
from tiny_bases import load

from trainer.adapter import read_adapter, write_adapter, write_words
from trainer.bases.base import FAMILIES, Base, family_of
from trainer.bases.words import all_new_rows, keep_lengths, said_whole
from trainer.console import Console
from trainer.errors import RecipeError, UsageError
from trainer.fingerprints import decides_fit
from trainer.fit import loop, stage
from trainer.fit.adapted import adapt
from trainer.fit.cache import read_samples
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.optimizer import build_optimizer, set_rate
from trainer.fit.plan import estimate
from trainer.fit.reading import check_apart
from trainer.layouts.words import KEYS, beside, split_words
from trainer.recipe import ONE_VECTOR, READ_BY_CLIP
from trainer.sections import FitSection

TUNED = ("sd15", "sdxl", "sd3", "flux1")
SAID = "photo of ohwx person"
SHORT = replace(
    SETTINGS, steps=3, checkpoint_every=3, learning_rate=1e-2, warmup_steps=0, token_init="person", new_tokens=2
)

PART = """
import os, sys
os.environ["ACCELERATE_USE_CPU"] = "true"
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {fit!r}]
from test_new_words import SHORT
from trainer.bases.base import get_base
from trainer.console import Console
from trainer.fit import stage
samples, base, folder = map(Path, sys.argv[1:])
settings = replace(SHORT, steps=6, checkpoint_every=6, batch_size=1, prior_batch=1)
stage.fit(samples, get_base("sd15", str(base), size_px=128), settings, folder, Console(quiet=True))
"""


@pytest.fixture(params=TUNED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


def vectors_of(name: str) -> int:
    return 1 if name in ONE_VECTOR else 2


def fitted(base: Base, samples: Path, folder: Path, **changes: Any) -> Path:
    """The last checkpoint of a short fit."""
    folder.mkdir(exist_ok=True)
    stage.fit(samples, base, replace(SHORT, **changes), folder, Console(quiet=True))
    return find_checkpoints(folder)[-1].adapter


def drawn(base: Base, prompt: str = SAID) -> np.ndarray[Any, Any]:
    made: dict[int, Any] = {}
    base.sample([prompt], [7], 2, 3.0, 1, made.__setitem__)
    return np.asarray(made[0]).astype(int)


def tables_of(base: Any) -> list[torch.Tensor]:
    """Copies of the encoders' own tables of embeddings."""
    pipeline = base._pipeline
    found = [getattr(pipeline, name).get_input_embeddings() for name in family_of(base.name).tunable.tokenizers]
    return [getattr(table, "table", table).weight.detach().clone() for table in found]


def with_old_ends(folder: Path, copy: Path) -> Path:
    """The same base with `eos_token_id` 2 in its encoders' files, as older ones have it."""
    shutil.copytree(folder, copy)
    for file in copy.glob("text_encoder*/config.json"):
        config = json.loads(file.read_text())
        if config["architectures"][0].startswith("CLIP"):
            file.write_text(json.dumps(config | {"eos_token_id": 2}))
    return copy


@pytest.mark.parametrize("old_ends", [False, True])
def test_a_stock_pipeline_with_both_files_draws_the_same(
    old_ends: bool, name: str, tiny_base: Callable[[str], Path], samples: Path, tmp_path: Path
) -> None:
    import diffusers
    import safetensors.torch

    folder = with_old_ends(tiny_base(name), tmp_path / "old") if old_ends else tiny_base(name)
    base = load(name, folder)
    noisy = torch.randn((1, *base.encode_images([np.zeros((128, 128, 3), np.uint8)]).shape[1:]))
    before = tables_of(base)
    file = fitted(base, samples, tmp_path / "fit", new_tokens=vectors_of(name), adapter="lora")
    rows = all_new_rows(base.text_encoders)
    assert {key for key in read_adapter(file)[0] if key.startswith("bundle_emb")} == {
        f"bundle_emb.ohwx.{key}" for key in KEYS[: len(rows)]
    }
    fresh = load(name, folder)
    fresh.learn_word("ohwx", vectors_of(name), "person")
    starts = all_new_rows(fresh.text_encoders).values()
    for own, table, start in zip(rows.values(), before, starts, strict=True):
        assert torch.equal(own.table.weight, table)  # of all rows only the new ones moved, along their sphere
        assert float((own.rows - start.rows).detach().norm(dim=-1).min()) > 1e-3
        torch.testing.assert_close(own.rows.norm(dim=-1), start.rows.norm(dim=-1))
    loaded = load(name, folder)
    bare = drawn(loaded)
    loaded.use_adapter(file)
    ours = drawn(loaded)
    assert np.abs(ours - bare).max() > 1
    told = loaded.encode_texts([SAID])
    spoken = load(name, folder)
    spoken.learn_word("ohwx", vectors_of(name), "person")
    with torch.no_grad():
        live = base.predict(noisy, torch.tensor([500]), spoken.encode_texts([SAID]))
        torch.testing.assert_close(loaded.predict(noisy, torch.tensor([500]), told), live, rtol=1e-3, atol=2e-4)
    loaded.use_adapter(None)
    assert np.array_equal(drawn(loaded), bare)
    assert all(torch.equal(a, b) for a, b in zip(tables_of(loaded), before, strict=True))

    layers, words = split_words(file, read_adapter(file)[0])
    target = tmp_path / "a.safetensors"
    write_adapter(target, layers, write_words(target, words))
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(tmp_path), weight_name=target.name)
    exec(  # the very lines of the model card
        "\n".join(loaded.word_code(beside(target), words)),
        {"pipe": pipe, "diffusers": diffusers, "safetensors": safetensors},
    )
    options = {"num_inference_steps": 2, "height": 128, "width": 128, "output_type": "np", "guidance_scale": 3.0}
    stock = pipe(prompt=SAID, generator=torch.Generator().manual_seed(7), **options).images[0]
    assert np.abs(ours - (stock * 255).round().astype(int)).max() <= 1
    loaded.use_adapter(target)
    assert np.array_equal(drawn(loaded), ours)


@pytest.mark.parametrize(
    "changes",
    [{}, {"dropout": 0.1, "ema_decay": 0.9, "gradient_checkpointing": True, "text_encoder_rate": 0.5}],
    ids=["alone", "with much else"],
)
def test_a_stopped_fit_goes_on_as_if_nothing_had_happened(
    changes: dict[str, Any], samples: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)
    settings = replace(
        SETTINGS, steps=20, checkpoint_every=10, new_tokens=2, token_init="person", token_until=0.6, **changes
    )
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    stage.fit(samples, load("sd15", random_base), settings, tmp_path / "whole", Console(quiet=True))
    for stop in (5, 13):
        with pytest.raises(KeyboardInterrupt):
            stage.fit(samples, load("sd15", random_base), settings, tmp_path / "stopped", interrupted_at(stop))
    stage.fit(samples, load("sd15", random_base), settings, tmp_path / "stopped", Console(quiet=True))
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    if not changes:  # an average would still move
        halfway, last = (read_adapter(one.adapter)[0] for one in find_checkpoints(tmp_path / "whole"))
        vectors = [key for key in last if key.startswith("bundle_emb")]
        assert not any(key.startswith("text_encoder") for key in last)
        again = fitted(load("sd15", random_base), samples, tmp_path / "stays", steps=20, token_until=0.5,
                       checkpoint_every=10, warmup_steps=5, learning_rate=1e-3)  # fmt: skip
        kept = [read_adapter(one.adapter)[0] for one in find_checkpoints(again.parents[2])]
        for key in vectors:
            assert not torch.equal(last[key], halfway[key])
            assert torch.equal(kept[0][key], kept[1][key])


def test_two_processes_learn_the_vectors_of_one_with_twice_the_batch(
    samples: Path, random_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "two").mkdir()
    script = tmp_path / "part.py"
    script.write_text(PART.format(tests=str(ROOT / "tests"), fit=str(ROOT / "tests/fit")))
    process = launched(tmp_path, script, samples, random_base, tmp_path / "two")
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    alone = fitted(
        load("sd15", random_base), samples, tmp_path / "one", steps=6, checkpoint_every=6, batch_size=2, prior_batch=2
    )
    two, one = read_adapter(find_checkpoints(tmp_path / "two")[-1].adapter)[0], read_adapter(alone)[0]
    torch.testing.assert_close(two["bundle_emb.ohwx.clip_l"], one["bundle_emb.ohwx.clip_l"], rtol=1e-2, atol=1e-4)


def test_the_file_of_a_fit_is_a_start_for_the_next(samples: Path, random_base: Path, tmp_path: Path) -> None:
    file = fitted(load("sd15", random_base), samples, tmp_path / "first", token_init="a man")
    on = {"warm_start": str(file), "learning_rate": 1e-12}
    again = fitted(load("sd15", random_base), samples, tmp_path / "next", **on)
    wanted, found = read_adapter(file)[0], read_adapter(again)[0]
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6)
    for count in (0, 3):
        with pytest.raises(RecipeError, match=r"its word ohwx has 2 vectors: set fit\.new_tokens=2"):
            fitted(load("sd15", random_base), samples, tmp_path / f"{count}", new_tokens=count, **on)


def test_vectors_have_a_rate_of_their_own_and_an_end() -> None:
    names = ["unet.lora_A.w", "unet.lora_B.w", "text_encoder.q.lora_A.w", "tokens.text_encoder"]
    weights = {name: torch.zeros(1, requires_grad=True) for name in names}
    optimizer = build_optimizer("adamw", weights, 1.0, 0.0, 16.0, 0.05, 5.0)
    for word, rate in ((True, 0.5), (False, 0.0)):
        set_rate(optimizer, 0.1, word)
        rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        assert [rates[id(weights[name])] for name in names] == pytest.approx([0.1, 1.6, 0.005, rate])
    alike = build_optimizer("adamw", weights, 1.0, 0.0, None, 1.0, 1.0)
    assert len(alike.param_groups) == 2  # the end is theirs alone


def test_vectors_keep_their_lengths_and_bf16_does_not_swallow_their_steps(random_base: Path) -> None:
    base = load("sd15", random_base, "bf16")
    base.learn_word("ohwx", 3, "man")
    (encoder,) = base.text_encoders.values()
    (rows,) = all_new_rows(base.text_encoders).values()
    assert encoder.dtype == torch.bfloat16
    assert rows.rows.dtype == torch.float32
    began = rows.rows.detach().clone()
    rows.rows.data += 1e-4
    keep_lengths(base.text_encoders)
    assert not torch.equal(rows.rows, began)
    torch.testing.assert_close(rows.rows.norm(dim=-1), began.norm(dim=-1))
    words = base.encode_texts([SAID])
    assert words.tokens is not None
    assert sorted(words.tokens[words.tokens >= rows.first].tolist()) == [rows.first + index for index in range(3)]
    assert base.count_tokens(SAID)[0] == base.count_tokens("photo of person")[0] + 3


def test_the_plan_counts_the_vectors_to_the_byte(name: str, tiny_base: Callable[[str], Path]) -> None:
    settings = replace(SHORT, new_tokens=vectors_of(name))
    described = {"name": name, "path": str(tiny_base(name)), "size_px": 128}
    found = estimate(described, settings, "fp32", torch.device("cpu"))
    base = load(name, tiny_base(name))
    base.learn_word("ohwx", settings.new_tokens, "person")
    weights = adapt(base, settings)
    assert sum(key.startswith("tokens.") for key in weights) == len(base.text_encoders)
    assert not any(key.startswith("text_encoder") for key in weights)
    assert found.adapter == 12 * sum(weight.numel() for weight in weights.values())
    parts = [base.denoiser, *base.text_encoders.values()]
    held = {id(tensor): tensor for part in parts for tensor in (*part.parameters(), *part.buffers())}
    trained = {id(weight) for weight in weights.values()}
    assert found.frozen == sum(t.numel() * t.element_size() for key, t in held.items() if key not in trained)


def test_what_cannot_be_is_refused_at_the_door_and_by_the_base(
    cli: Command, tiny_base: Callable[[str], Path], samples: Path
) -> None:
    tunable = {name: family_of(name) for name in FAMILIES if family_of(name).tunable}
    assert tunable.keys() == READ_BY_CLIP
    assert {name for name, family in tunable.items() if not said_whole(family.pipeline)} == ONE_VECTOR
    for said, words in (
        ("base.name=qwen-image base.path=x fit.new_tokens=1", "fit.new_tokens: qwen-image reads texts"),
        ("base.name=sd3 base.path=x fit.new_tokens=2", "fit.new_tokens: prompts of sd3 can say"),
        ("fit.token_init=man", "fit.token_init: goes with fit.new_tokens"),
        ("fit.new_tokens=1 fit.optimizer=prodigy fit.learning_rate=1 fit.token_rate=5", "fit.token_rate: Prodigy"),
        ("fit.new_tokens=1 prepare.trigger=son", "prepare.trigger: son is a part of person"),
    ):
        done = cli("recipe", "check", "portrait-tiny", *[part for one in said.split() for part in ("--set", one)])
        assert done.returncode == 2
        assert words in done.stderr
    with pytest.raises(UsageError, match="language model"):
        load("z-image", tiny_base("z-image")).learn_word("ohwx", 1, "person")
    with pytest.raises(UsageError, match="one vector"):
        load("sd3", tiny_base("sd3")).learn_word("ohwx", 2, "person")
    base = load("sd15", tiny_base("sd15"))
    with pytest.raises(UsageError, match="is a token of the base already"):
        base.learn_word("a", 1, "person")
    with pytest.raises(UsageError, match="reads nothing"):
        base.learn_word("ohwx", 1, " ")
    check_apart(read_samples(samples), "ohwx")
    with pytest.raises(UsageError, match=r"tur is a part of another word .* 0\.png"):
        check_apart(read_samples(samples), "tur")


def test_a_fit_from_before_the_keys_still_holds() -> None:
    keys = {"new_tokens", "token_rate", "token_init", "token_until"}
    assert not keys & decides_fit(FitSection()).keys()
    assert decides_fit(FitSection(new_tokens=2, token_rate=5.0)) == decides_fit(FitSection()) | {
        "new_tokens": 2, "token_rate": 5.0,
    }  # fmt: skip


def test_a_run_scores_exports_and_repeats_it(
    photos: Path, fast: list[str], cli: Command, tmp_path: Path, weights: Path
) -> None:
    home = tmp_path / "subjects/zelda"
    home.mkdir(parents=True)
    shutil.move(photos, home / "photos")
    chosen = [*fast, "--set", "fit.new_tokens=2", "--set", "fit.token_rate=5"]
    done = cli("train", "zelda", "--json", *chosen)
    assert done.returncode == 0, done.stderr
    adapter = Path(json.loads(done.stdout)["result"]["adapter"])
    folder = adapter.parent
    files = {"zelda.safetensors", "zelda.tokens.safetensors", "zelda.kohya.safetensors"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert files <= {row["file"] for row in manifest["files"]}
    assert manifest["parity"].keys() == {"zelda.safetensors", "zelda.kohya.safetensors"}
    assert max(manifest["parity"].values()) <= 1  # scored with the adapter folded into the weights
    vectors, said = read_adapter(folder / "zelda.tokens.safetensors")
    assert {key: tensor.shape[0] for key, tensor in vectors.items()} == {"ohwx": 2}
    assert "zelda" not in json.dumps(said)
    kohya, _ = read_adapter(folder / "zelda.kohya.safetensors")
    assert torch.equal(kohya["bundle_emb.ohwx.clip_l"], vectors["ohwx"])
    _, said = read_adapter(adapter)
    assert said["likeness.new_tokens"] == "2"
    card = (folder / "README.md").read_text()
    assert 'pipe.load_textual_inversion("FOLDER/THIS-FILE.tokens.safetensors", token="ohwx")' in card
    assert "zelda" not in card
    done = cli("inspect", folder / "zelda.kohya.safetensors", "--json")
    assert json.loads(done.stdout)["result"]["words"] == {"ohwx": {"clip_l": list(vectors["ohwx"].shape)}}
    done = cli("replay", folder.parent, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["same"]
    arguments = ["--photos", home / "photos", *chosen[:2], "--set", "evaluate.seeds=1", "--set",
                 "evaluate.sampling_steps=2", "--set", "evaluate.bootstrap=100", "--json"]  # fmt: skip
    scores = []
    for file in ("zelda.safetensors", "zelda.kohya.safetensors"):
        done = cli("evaluate", "nora", "--adapter", folder / file, *arguments)
        assert done.returncode == 0, done.stderr
        scores.append(json.loads(done.stdout)["result"]["stages"]["3_evaluate"]["of_ceiling"])
    assert scores[0] == scores[1]
    (folder / "zelda.tokens.safetensors").unlink()
    done = cli("evaluate", "nora", "--adapter", adapter, *arguments)
    assert done.returncode == 6
    assert "the vectors of its new word are not beside it, in zelda.tokens.safetensors" in done.stderr
