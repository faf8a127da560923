"""What is exported: the scored pictures come back, every file is accounted for, and nothing says who it is."""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from huggingface_hub import ModelCard
from PIL import Image

from trainer.adapter import read_adapter, tensors_sha256, write_adapter
from trainer.bases.base import Base, get_base
from trainer.errors import IntegrityError
from trainer.export import stage
from trainer.export.metadata import adapter_metadata
from trainer.export.parity import check_parity, check_twin
from trainer.kinds import PERSON
from trainer.layouts.layers import read_layers, to_kohya
from trainer.records import RGB, Checkpoint


@pytest.fixture
def exported(trained: dict[str, Any]) -> Path:
    folder: Path = trained["home"] / Path(trained["result"]["adapter"]).parent
    return folder


@pytest.fixture
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


def settings(**changes: Any) -> stage.Settings:
    plain: dict[str, Any] = {"file_stem": "zelda", "trigger": "ohwx", "class_word": "person", "rank": 4}
    plain |= {"dtype": "fp32", "kohya": True, "licence": "other"}
    return stage.Settings(**(plain | changes))


def unasked(_: object) -> list[float]:
    """A judge who is not needed: pictures are the scored ones, or worse than what likeness is asked of."""
    raise AssertionError


def test_the_folder_holds_what_the_contract_says(exported: Path) -> None:
    found = sorted(path.name for path in exported.iterdir())
    assert found == ["README.md", "manifest.json", "stage.json", "zelda.kohya.safetensors", "zelda.safetensors"]


def test_the_manifest_accounts_for_every_file(exported: Path, trained: dict[str, Any]) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    for row in manifest["files"]:
        data = (exported / row["file"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert {row["file"] for row in manifest["files"]} == {"README.md", "zelda.kohya.safetensors", "zelda.safetensors"}
    tensors, _ = read_adapter(exported / "zelda.safetensors")
    assert manifest["parity"].keys() == {"zelda.kohya.safetensors", "zelda.safetensors"}
    assert manifest["likeness_change"] == dict.fromkeys(manifest["parity"], 0.0)
    assert manifest["tensors_sha256"] == tensors_sha256(tensors)
    assert manifest["parity_levels"] == trained["result"]["stages"]["4_export"]["parity_levels"] <= 2
    assert manifest["verdict"] == trained["result"]["stages"]["3_evaluate"]["verdict"]


def test_the_exported_tensors_are_those_of_the_chosen_checkpoint(exported: Path, trained: dict[str, Any]) -> None:
    step = trained["result"]["stages"]["4_export"]["step"]
    checkpoint = exported.parent / f"2_fit/checkpoints/step-{step:06d}/adapter.safetensors"
    assert tensors_sha256(read_adapter(exported / "zelda.safetensors")[0]) == tensors_sha256(
        read_adapter(checkpoint)[0]
    )


def test_metadata_card_and_log_name_no_photo_and_no_person(exported: Path, trained: dict[str, Any]) -> None:
    _, metadata = read_adapter(exported / "zelda.safetensors")
    _, kohya = read_adapter(exported / "zelda.kohya.safetensors")
    assert metadata["likeness.trigger"] == "ohwx"
    assert kohya["ss_network_dim"] == kohya["ss_network_alpha"] == "4"
    card = (exported / "README.md").read_text()
    log = (exported.parent / "events.jsonl").read_text()
    for text in (json.dumps(metadata), json.dumps(kohya), card, log):
        assert not re.search("zelda|holiday|" + re.escape(str(trained["home"])), text, re.IGNORECASE)


@pytest.mark.parametrize("name", ["zelda.safetensors", "zelda.kohya.safetensors"])
def test_tools_find_what_they_show(name: str, exported: Path, trained: dict[str, Any], cli: Command) -> None:
    card = json.loads((exported.parent / "3_evaluate/scorecard.json").read_text())
    _, said = read_adapter(exported / name)
    assert said["modelspec.architecture"] == "portrait-tiny/lora"
    assert said["modelspec.trigger_phrase"] == "ohwx person"
    assert said["modelspec.resolution"] == "128x128"
    assert said["modelspec.prediction_type"] == "v"
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", said["modelspec.date"])
    data = (exported / name).read_bytes()
    weights = data[8 + int.from_bytes(data[:8], "little") :]
    assert said["modelspec.hash_sha256"] == "0x" + hashlib.sha256(weights).hexdigest()
    assert said["ss_base_model_version"] == said["ss_sd_model_name"] == "portrait-tiny"
    assert said["ss_num_train_images"] == str(card["photos"]["fit"])
    assert json.loads(said["ss_tag_frequency"]) == {"likeness": {"ohwx person": card["photos"]["fit"]}}
    assert said["likeness.mean"] == f"{card['identity']['mean']:.4f}"
    assert said["likeness.recipe_sha256"] == card["recipe"]["sha256"]
    assert said["likeness.base_sha256"] == card["base"]["sha256"]
    assert said["likeness.step"] == str(trained["result"]["stages"]["4_export"]["step"])
    shown = cli("inspect", exported / name).stdout
    assert all(key in shown for key in said)
    assert f"{said['likeness.verdict']}: " in shown


def test_a_known_family_has_the_names_that_tools_know(exported: Path) -> None:
    card = json.loads((exported.parent / "3_evaluate/scorecard.json").read_text())
    card["base"]["name"], card["identity"]["of_ceiling"] = "sdxl", None
    facts = {"trigger": "ohwx", "class_word": "man", "rank": 8, "step": 4, "strength": 1.0, "licence": "mit",
             "version": "1", "size_px": 1024, "prediction": "flow", "dora": True, "kind": PERSON}  # fmt: skip
    said = adapter_metadata(card, facts)
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert said["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (said["likeness.of_ceiling"], said["modelspec.license"]) == ("null", "mit")
    assert "modelspec.prediction_type" not in said
    assert said["ss_network_module"] == "lycoris.kohya"
    assert json.loads(said["ss_network_args"])["dora_wd"] is True
    assert "ss_network_args" not in adapter_metadata(card, facts | {"dora": False})


def test_the_card_is_a_model_card_with_the_score(exported: Path) -> None:
    scorecard = json.loads((exported.parent / "3_evaluate/scorecard.json").read_text())
    card = ModelCard.load(exported / "README.md")
    assert card.data.library_name == "diffusers"
    assert {"lora", "text-to-image"} <= set(card.data.tags)
    said = card.data.to_dict()
    assert said["base_model"] == "portrait-tiny"
    assert (said["license"], said["license_name"]) == ("other", "as-agreed-with-the-person")
    assert said["instance_prompt"] == "ohwx person"
    assert scorecard["by_prompt"][0]["prompt"] in card.text
    assert "Intended use and limits" in card.text
    assert f"{scorecard['identity']['mean']:.3f}" in card.text
    assert f"| {scorecard['verdict']} |" in card.text
    assert "load_lora_weights" in card.text


def test_a_picture_a_level_off_is_judged_in_the_run_itself(
    copied: Path, trained: dict[str, Any], cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    run = (copied / "runs/zelda/latest").resolve()
    name = json.loads((run / "3_evaluate/samples/adapter.json").read_text())["files"][0]
    picture = np.asarray(Image.open(run / "3_evaluate/samples" / name))
    changed = run / "3_evaluate/samples" / name
    Image.fromarray(picture - (picture == picture.max())).save(changed)
    mark = json.loads((run / "3_evaluate/stage.json").read_text())  # else the change itself is refused
    mark["files"][f"samples/{name}"] = hashlib.sha256(changed.read_bytes()).hexdigest()
    (run / "3_evaluate/stage.json").write_text(json.dumps(mark))
    shutil.rmtree(run / "4_export")
    done = cli(*trained["arguments"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["reused"] == ["1_prepare", "2_fit", "3_evaluate"]
    manifest = json.loads((run / "4_export/manifest.json").read_text())
    assert set(manifest["parity"].values()) == {1}
    assert all(abs(change) < 0.1 for change in manifest["likeness_change"].values())


@pytest.fixture
def checkpoint(exported: Path, tmp_path: Path) -> Checkpoint:
    """One whose adapter changes pictures much: with a weak one everything would be in parity with everything."""
    tensors, _ = read_adapter(exported / "zelda.safetensors")
    generator = torch.Generator().manual_seed(0)
    strong = {
        name: 0.2 * torch.randn(tensor.shape, generator=generator) if "lora_B" in name else tensor
        for name, tensor in tensors.items()
    }
    write_adapter(tmp_path / "strong.safetensors", strong, {"format": "pt"})
    return Checkpoint(4, tmp_path / "strong.safetensors")


@pytest.fixture
def evaluated(checkpoint: Checkpoint, exported: Path, base: Base, tmp_path: Path) -> Path:
    """The run's evaluation with the first batch made by that checkpoint."""
    folder = tmp_path / "3_evaluate"
    shutil.copytree(exported.parent / "3_evaluate", folder)
    batch = json.loads((folder / "samples/adapter.json").read_text())
    base.use_adapter(checkpoint.adapter)
    base.sample(
        batch["prompts"], batch["seeds"], batch["steps"], batch["guidance"], len(batch["prompts"]),
        lambda index, picture: Image.fromarray(picture).save(folder / "samples" / batch["files"][index]),
    )  # fmt: skip
    return folder


def test_a_base_of_the_hub_is_named_and_a_folder_is_not(base: Base, random_base: Path) -> None:
    assert stage.hub_name(base) == "portrait-tiny"
    base.folder = "somebody/some-model"
    assert stage.hub_name(base) == "somebody/some-model"


@pytest.mark.parametrize(("dtype", "kind"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_a_strong_adapter_is_in_parity_too(
    dtype: str, kind: torch.dtype, checkpoint: Checkpoint, evaluated: Path, base: Base, tmp_path: Path
) -> None:
    (tmp_path / "4_export").mkdir()
    facts = stage.export(
        checkpoint,
        base,
        evaluated,
        settings(dtype=dtype, kohya=False),
        lambda pictures: [0.0] * len(pictures),
        tmp_path / "4_export",
    )
    assert facts["parity_levels"] <= (0 if dtype == "fp32" else 2)
    tensors, _ = read_adapter(tmp_path / "4_export/zelda.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {kind}
    assert not (tmp_path / "4_export/zelda.kohya.safetensors").exists()


def test_a_file_that_makes_other_pictures_is_refused(checkpoint: Checkpoint, evaluated: Path, base: Base) -> None:
    tensors, _ = read_adapter(checkpoint.adapter)
    write_adapter(checkpoint.adapter, {name: 1.02 * tensor for name, tensor in tensors.items()}, {"format": "pt"})
    with pytest.raises(IntegrityError, match="of 255 levels") as caught:
        check_parity(base, checkpoint.adapter, evaluated, unasked)
    assert "export.dtype=fp32" in caught.value.hint


@pytest.mark.parametrize("change", [0.01, 0.2])
def test_pictures_a_level_off_must_keep_the_likeness(
    change: float, checkpoint: Checkpoint, evaluated: Path, base: Base
) -> None:
    names = json.loads((evaluated / "samples/adapter.json").read_text())["files"]
    for name in names:
        picture = np.asarray(Image.open(evaluated / "samples" / name))
        Image.fromarray(picture - (picture == picture.max())).save(evaluated / "samples" / name)
    card = json.loads((evaluated / "scorecard.json").read_text())
    card["identity"]["ci95"] = [0.3, 0.5]
    (evaluated / "scorecard.json").write_text(json.dumps(card))

    def judge(pictures: Sequence[RGB]) -> list[float]:
        half = len(names)
        assert len(pictures) == 2 * half
        assert np.abs(np.array(pictures[:half], int) - np.array(pictures[half:], int)).max() == 1
        return [0.4] * half + [0.4 - change] * half

    if change > 0.1:
        with pytest.raises(IntegrityError, match=r"likeness of its pictures is -0\.200 off .* 0\.100 to either side"):
            check_parity(base, checkpoint.adapter, evaluated, judge)
    else:
        found = check_parity(base, checkpoint.adapter, evaluated, judge)
        assert (found.levels, found.likeness) == (1, pytest.approx(-change))


def test_both_layouts_pass_the_gate_with_a_strong_adapter(
    checkpoint: Checkpoint, evaluated: Path, base: Base, tmp_path: Path
) -> None:
    (tmp_path / "4_export").mkdir()
    stage.export(checkpoint, base, evaluated, settings(), unasked, tmp_path / "4_export")
    manifest = json.loads((tmp_path / "4_export/manifest.json").read_text())
    assert manifest["parity"] == {"zelda.safetensors": 0, "zelda.kohya.safetensors": 0}


def test_a_twin_that_reads_back_as_another_adapter_is_refused(
    checkpoint: Checkpoint, evaluated: Path, base: Base, tmp_path: Path
) -> None:
    tensors, _ = read_adapter(checkpoint.adapter)
    twin = to_kohya(read_layers(checkpoint.adapter, tensors, {}))
    name = next(name for name in twin if name.endswith("lora_up.weight"))
    write_adapter(tmp_path / "twin.safetensors", twin | {name: twin[name] * 1.001}, {})
    with pytest.raises(IntegrityError, match="reads back as another adapter"):
        check_twin(base, tmp_path / "twin.safetensors", tensors, evaluated, unasked)


@pytest.mark.parametrize("kohya", [False, True])
def test_a_layer_that_the_base_does_not_take_is_named(
    kohya: bool, checkpoint: Checkpoint, evaluated: Path, base: Base, tmp_path: Path
) -> None:
    tensors, _ = read_adapter(checkpoint.adapter)
    tensors = {name.replace("mid_block.resnets.0.conv1", "mid_block.resnets.7.conv1"): t for name, t in tensors.items()}
    file = tmp_path / "renamed.safetensors"
    write_adapter(file, to_kohya(read_layers(file, tensors, {})) if kohya else tensors, {})
    with pytest.raises(IntegrityError, match=r"1 of \d+ layers are unknown .*: unet\.mid_block\.resnets\.7\.conv1"):
        check_parity(base, file, evaluated, unasked)
