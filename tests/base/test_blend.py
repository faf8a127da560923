"""Weights between two trainings'."""

import sys
from pathlib import Path

import blend
import pytest
import torch
from safetensors.torch import load_file, save_file


def folder(path: Path, value: float, width: int = 2) -> Path:
    for name in blend.TRAINED:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        weights = {"weight": torch.full((width,), value, dtype=torch.float16), "ids": torch.arange(width)}
        save_file(weights, path / name)
    (path / "model_index.json").write_text(f"{value}")
    return path


def test_a_blend_lies_between_both_and_keeps_the_rest_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, out = folder(tmp_path / "a", 1.0), folder(tmp_path / "b", 3.0), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["blend.py", str(first), str(second), "--share", "0.25", "--out", str(out)])
    blend.main()
    for name in blend.TRAINED:
        blended = load_file(out / name)
        assert torch.equal(blended["weight"], torch.full((2,), 1.5, dtype=torch.float16))
        assert torch.equal(blended["ids"], torch.arange(2))
    assert (out / "model_index.json").read_text() == "1.0"


def test_weights_of_another_kind_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, out = folder(tmp_path / "a", 1.0), folder(tmp_path / "b", 3.0, width=3), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["blend.py", str(first), str(second), "--out", str(out)])
    with pytest.raises(SystemExit, match="different kinds"):
        blend.main()
    assert not out.exists()
