"""evaluate --adapter: an adapter made by any tool, scored on photos that all are sealed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from safetensors.torch import save_file

from trainer.evaluate.nulls import NOT_KNOWN, NOT_MEASURED


@pytest.fixture
def score(cli: Command, copied: Path, fast: list[str]) -> Command:
    return lambda file, *more: cli(
        "evaluate", "zelda", "--adapter", file, "--photos", copied / "subjects/zelda/photos", "--json", *fast, *more
    )


@pytest.fixture
def exported(copied: Path) -> Path:
    return copied / "runs/zelda/latest/4_export"


def card_of(done: Any) -> tuple[Path, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["result"]
    card: dict[str, Any] = json.loads(Path(said["scorecard"]).read_text())
    return Path(said["run"]), card


def test_both_layouts_get_the_same_score_and_nothing_is_fitted(score: Command, exported: Path) -> None:
    run, card = card_of(score(exported / "zelda.safetensors"))
    other, kohya = card_of(score(exported / "zelda.kohya.safetensors"))
    assert run != other
    assert card["photos"] == {"fit": 0, "select": 0, "report": 14}
    assert card["copying"].items() >= {"to_fit_photos": None, "excess": None}.items()
    assert card["copying"]["any_excess"] < 0  # this needs no word on what it was fitted on
    assert card["checkpoints"] == []
    assert card["cost"]["fit_s"] is None
    assert card["nulls"].items() >= {"cost.fit_s": NOT_KNOWN, "copying.excess": NOT_KNOWN}.items()
    assert NOT_MEASURED not in card["nulls"].values()
    assert any("what it was fitted on is not known" in reason for reason in card["reasons"])
    assert card["identity"]["mean"] == pytest.approx(kohya["identity"]["mean"], abs=0.01)
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["1_prepare", "3_evaluate"]
    assert not (run / "1_prepare/images").exists()
    assert "Checkpoints" not in (run / "3_evaluate/report.html").read_text()


def test_the_score_is_that_of_the_file_and_not_of_the_base(score: Command, exported: Path, tmp_path: Path) -> None:
    from trainer.adapter import read_adapter, write_adapter

    tensors, _ = read_adapter(exported / "zelda.safetensors")
    generator = torch.Generator().manual_seed(0)
    strong = {name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    write_adapter(tmp_path / "strong.safetensors", strong, {"format": "pt"})
    run, _ = card_of(score(tmp_path / "strong.safetensors"))
    first = "3_evaluate/samples/{}/00-0.png"
    assert (run / first.format("adapter")).read_bytes() != (run / first.format("base")).read_bytes()


def test_a_file_that_is_no_adapter_of_this_base_is_refused(score: Command, tmp_path: Path) -> None:
    missing = score(tmp_path / "none.safetensors")
    assert missing.returncode == 2
    assert "none.safetensors: no such file" in missing.stderr
    (tmp_path / "text.safetensors").write_text("not an adapter")
    assert score(tmp_path / "text.safetensors").returncode == 6
    save_file({"unet.nowhere.lora_A.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    other = score(tmp_path / "other.safetensors")
    assert other.returncode == 6
    assert "other.safetensors" in other.stderr


def test_two_photos_are_too_few_to_score_on(score: Command, exported: Path, copied: Path) -> None:
    folder = copied / "subjects/zelda/photos"
    for photo in sorted(folder.iterdir())[2:]:
        photo.unlink()
    adapter = copied / "kept.safetensors"
    shutil.copyfile(exported / "zelda.safetensors", adapter)
    done = score(adapter)
    assert done.returncode == 3
    assert "at least 3 are needed" in done.stderr
