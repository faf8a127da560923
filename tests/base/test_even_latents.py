"""Channels made alike: the same pictures, and mean squares of the power that was asked for."""

import sys
from collections.abc import Callable
from pathlib import Path

import even_latents
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from train_autoencoder import build_autoencoder, load_autoencoder


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(2, 6), st.floats(0, 1))
def test_mean_squares_become_their_own_power(seed: int, channels: int, share: float) -> None:
    drawn = np.random.default_rng(seed).normal(size=(channels, 4 * channels))
    squares = drawn @ drawn.T
    mixing = even_latents.mixing_of(squares, share)
    before = np.linalg.eigvalsh(squares / np.trace(squares) * channels)
    np.testing.assert_allclose(np.linalg.eigvalsh(mixing @ squares @ mixing.T / np.trace(squares) * channels),
                               np.sort(before ** (1 - share)), rtol=1e-6)  # fmt: skip


def test_the_mixed_autoencoder_makes_the_same_pictures_of_other_latents(
    demo_files: list[Path],
    write_imagefolder: Callable[[Path, list[Path]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures, out = write_imagefolder(tmp_path / "pictures", demo_files[:6]), tmp_path / "even"
    torch.manual_seed(0)
    save_file(build_autoencoder(6).state_dict(), tmp_path / "autoencoder.safetensors")
    (tmp_path / "words.json").write_text("[]")
    command = ["even_latents.py", "--pictures", str(pictures), "--autoencoder", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--share", "1"])
    even_latents.main()
    assert (out / "words.json").samefile(tmp_path / "words.json")
    before, after = (line.split(": ")[1].split() for line in capsys.readouterr().out.splitlines())
    assert len(before) == len(after) == 6
    assert float(before[0]) > 1.5
    assert after == ["1.00"] * 6
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = [load_autoencoder(folder).encode(picture).latent_dist for folder in (tmp_path, out)]
    restored = [load_autoencoder(f).decode(z.mode()).sample for f, z in zip((tmp_path, out), latents, strict=True)]
    assert not torch.allclose(latents[0].mode(), latents[1].mode(), rtol=0.1)
    torch.testing.assert_close(*restored, rtol=1e-3, atol=1e-4)
    moved = latents[1].logvar - latents[0].logvar
    assert float(moved.std((2, 3)).max()) < 1e-4  # each channel's variance by a factor of its own
    assert float(moved.abs().max()) > 0.01

    (out / "latents.npy").touch()
    with pytest.raises(SystemExit):
        even_latents.main()
    assert "latents of another autoencoder" in capsys.readouterr().err
