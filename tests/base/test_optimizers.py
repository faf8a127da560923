"""Optimizers side by side: the same start and batches for each, and one table of numbers."""

import sys
from collections.abc import Callable
from pathlib import Path

import optimizers
import pytest
import train_autoencoder
from safetensors.torch import save_file


@pytest.mark.usefixtures("weights")
def test_each_optimizer_starts_from_the_same_loss_and_then_goes_its_own_way(
    demo_files: list[Path],
    write_imagefolder: Callable[[Path, list[Path]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures, out = write_imagefolder(tmp_path / "pictures", demo_files[:12]), tmp_path / "out"
    out.mkdir()
    save_file(train_autoencoder.build_autoencoder(4).state_dict(), out / "autoencoder.safetensors")
    asked = ["--pictures", str(pictures), "--out", str(out), "--steps", "5", "--batch", "2", "--rate", "1e-2"]
    monkeypatch.setattr(sys, "argv", ["optimizers.py", *asked])
    optimizers.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["optimizer", *optimizers.COLUMNS.values()]
    adamw, muon = rows[2:]
    assert (adamw[0], muon[0]) == ("adamw", "muon")
    assert adamw[1] == muon[1]
    assert adamw[5] != muon[5]
