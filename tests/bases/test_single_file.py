"""Community checkpoints in one file: read as the folder they came from, refused where they could run code."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from single_file import write_single_file

from trainer.bases.base import get_base
from trainer.errors import MissingPartError, UsageError
from trainer.records import RGB


@pytest.fixture(scope="module")
def checkpoint(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("single") / "model.safetensors"
    write_single_file(random_base, file)
    return file


def weightless(folder: Path, copy: Path) -> Path:
    """The folder's config and tokenizer files."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    return copy


@pytest.fixture
def described(random_base: Path, tmp_path: Path) -> Path:
    return weightless(random_base, tmp_path / "described")


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_it_is_the_base_that_the_folder_holds(name: str, tiny_base: Callable[[str], Path], tmp_path: Path) -> None:
    write_single_file(tiny_base(name), tmp_path / "model.safetensors")
    described = weightless(tiny_base(name), tmp_path / "described")
    base = get_base(name, str(tmp_path / "model.safetensors"), config=str(described))
    folder = get_base(name, str(tiny_base(name)))
    assert (base.size_px, base.schedule.prediction) == (folder.size_px, folder.schedule.prediction)
    mine, theirs = base.denoiser.state_dict(), folder.denoiser.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    text = ["photo of ohwx person"]
    one, other = base.encode_texts(text), folder.encode_texts(text)
    assert torch.equal(one.text, other.text)
    assert (one.pooled is None) == (name == "sd15")
    if one.pooled is not None:
        torch.testing.assert_close(one.pooled, other.pooled, rtol=1e-5, atol=1e-5)  # a transposed matrix rounds apart
    made: dict[str, dict[int, RGB]] = {"file": {}, "folder": {}}
    base.sample(text, [0], 2, 2.0, 1, made["file"].__setitem__)
    folder.sample(text, [0], 2, 2.0, 1, made["folder"].__setitem__)
    assert np.abs(made["file"][0].astype(int) - made["folder"][0]).max() <= 1


def test_half_precision_leaves_the_vae_alone(checkpoint: Path, described: Path) -> None:
    base = get_base("sd15", str(checkpoint), config=str(described), precision="bf16")
    assert {parameter.dtype for parameter in base.denoiser.parameters()} == {torch.bfloat16}
    vae = base._pipeline.vae  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}


def test_its_hash_follows_its_bytes_and_its_config(checkpoint: Path, described: Path, tmp_path: Path) -> None:
    first = get_base("sd15", str(checkpoint), config=str(described)).sha256
    copy = tmp_path / "renamed.safetensors"
    shutil.copyfile(checkpoint, copy)
    assert get_base("sd15", str(copy), config=str(described)).sha256 == first
    scheduler = described / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("v_prediction", "epsilon"))
    assert get_base("sd15", str(copy), config=str(described)).sha256 != first


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "other tensors", "some tensors"])
def test_what_cannot_be_read_is_a_missing_part(damage: str, checkpoint: Path, described: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file, data = tmp_path / "model.safetensors", checkpoint.read_bytes()
    if damage in ("cut", "empty"):
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    elif damage == "other tensors":
        save_file({"a": torch.ones(2)}, file)
    elif damage == "some tensors":
        tensors = load_file(checkpoint)
        save_file({name: tensor for name, tensor in tensors.items() if "output_blocks" not in name}, file)
    with pytest.raises(MissingPartError, match=r"model\.safetensors cannot be loaded") as caught:
        get_base("sd15", str(file), config=str(described))
    assert "base.config" in caught.value.hint


def test_a_config_of_another_kind_is_a_missing_part(
    checkpoint: Path, tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(MissingPartError, match="cannot be loaded"):
        get_base("sdxl", str(checkpoint), config=str(tiny_base("sdxl")))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".CKPT"])
def test_a_pickle_is_refused_before_it_is_opened(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match="any code") as caught:
        get_base("sd15", str(file))
    assert "safetensors" in caught.value.hint


def test_a_folder_of_pickles_is_no_base(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "old")
    weights = tmp_path / "old/unet/diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(MissingPartError, match="cannot be loaded"):
        get_base("sd15", str(tmp_path / "old"))


def test_families_that_are_not_read_from_one_file_say_so(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="not read from a single file"):
        get_base("flux1", str(checkpoint))
