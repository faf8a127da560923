"""merge: the folder that comes out needs no adapter and makes the pictures that base and adapter make."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, hashes
from safetensors.torch import load_file, save_file

from trainer.adapter import write_adapter
from trainer.layouts.layer import Tensors
from trainer.layouts.layers import read_layers, to_kohya

TOLERANCE = {torch.float32: 1, torch.float16: 3}  # levels of 255, as docs/reference.md says
Family = Callable[[str], tuple[Any, Tensors]]


@pytest.fixture
def file(family: Family, tmp_path: Path) -> Path:
    """An adapter of UNet and text encoder that changes pictures much."""
    write_adapter(tmp_path / "alice.safetensors", family("sd15")[1], {"format": "pt"})
    return tmp_path / "alice.safetensors"


def picture(folder: Path, adapter: Path | None = None, scale: float = 1.0) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if adapter:
        pipe.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
        pipe.set_adapters(["default_0"], scale)
    generator = torch.Generator().manual_seed(0)
    made = pipe("ohwx", num_inference_steps=2, height=128, width=128, generator=generator, output_type="np")
    return (made.images[0] * 255).round()


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_merged_base_makes_the_same_picture(
    layout: str, scale: float, file: Path, random_base: Path, cli: Command, tmp_path: Path
) -> None:
    before = hashes(random_base)
    source = file
    if layout == "kohya":
        source = tmp_path / "kohya.safetensors"
        write_adapter(source, to_kohya(read_layers(file, load_file(file), {})), {})
    done = cli("merge", source, "--base", random_base, "--out", tmp_path / "merged", "--scale", str(scale), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["result"]
    assert said["layers"] == len(load_file(file)) // 2
    assert 0 < said["lost"]["mean"] <= said["lost"]["max"] < 1e-5
    merged, wanted = picture(tmp_path / "merged"), picture(random_base, file, scale)
    assert np.abs(merged - wanted).max() <= TOLERANCE[torch.float32]
    assert np.abs(merged - picture(random_base)).max() > 20
    assert hashes(random_base) == before


def test_a_half_precision_base_stays_one_and_says_what_it_lost(
    file: Path, random_base: Path, cli: Command, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(random_base, half)
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"):
        weights = load_file(half / f"{part}.safetensors")
        save_file({name: tensor.half() for name, tensor in weights.items()}, half / f"{part}.safetensors")
    done = cli("merge", file, "--base", half, "--out", tmp_path / "merged", "--json")
    said = json.loads(done.stdout)["result"]
    assert 1e-5 < said["lost"]["mean"] < 1e-2
    weights = load_file(tmp_path / "merged/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert np.abs(picture(tmp_path / "merged") - picture(half, file)).max() <= TOLERANCE[torch.float16]


def test_an_adapter_of_another_base_leaves_nothing_behind(random_base: Path, cli: Command, tmp_path: Path) -> None:
    for name, words in (("unet.nowhere", "the first is unet.nowhere"), ("transformer.x", "transformer.x")):
        weights = {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}
        write_adapter(tmp_path / "other.safetensors", weights, {})
        done = cli("merge", "other.safetensors", "--base", random_base, "--out", "merged")
        assert done.returncode == 6
        assert words in done.stderr
    weights = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 5, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(4, 2, 1, 1),
    }
    write_adapter(tmp_path / "other.safetensors", weights, {})
    wrong = cli("merge", "other.safetensors", "--base", random_base, "--out", "merged")
    assert wrong.returncode == 6
    assert "unet.conv_in is (4, 5, 3, 3)" in wrong.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


def test_second_copies_and_pickles_are_not_taken_along(
    file: Path, random_base: Path, cli: Command, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(random_base, base)
    plain = base / "unet/diffusion_pytorch_model.safetensors"
    shutil.copyfile(plain, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    plain.with_suffix(".bin").write_bytes(b"a pickle")
    (base / ".git").mkdir()
    (base / ".git/config.json").write_text("{}")
    assert cli("merge", file, "--base", base, "--out", tmp_path / "merged").returncode == 0
    names = {str(path.relative_to(tmp_path / "merged")) for path in (tmp_path / "merged").rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(random_base)) for path in random_base.rglob("*") if path.is_file()} | {
        "merged.json"
    }


def test_shards_and_their_index_are_kept(file: Path, random_base: Path, cli: Command, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    base = tmp_path / "base"
    shutil.copytree(random_base, base)
    shutil.rmtree(base / "unet")
    UNet2DConditionModel.from_pretrained(random_base / "unet").save_pretrained(base / "unet", max_shard_size="200KB")
    assert len(list((base / "unet").glob("*.safetensors"))) > 1
    assert cli("merge", file, "--base", base, "--out", tmp_path / "merged").returncode == 0
    assert np.abs(picture(tmp_path / "merged") - picture(random_base, file)).max() <= TOLERANCE[torch.float32]


def test_folders_are_checked_before_anything_is_written(
    file: Path, random_base: Path, cli: Command, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    for base, out, words in (
        (tmp_path, "merged", "no diffusers folder"),
        (random_base, "taken", "is there already"),
        (random_base, "none/merged", "no such folder"),
        (random_base, random_base / "merged", "lies inside the base"),
    ):
        done = cli("merge", file, "--base", base, "--out", out)
        assert done.returncode == 2
        assert words in done.stderr


def test_a_base_of_pickles_is_a_missing_part(file: Path, random_base: Path, cli: Command, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(random_base, base)
    (base / "unet/diffusion_pytorch_model.safetensors").rename(base / "unet/diffusion_pytorch_model.bin")
    done = cli("merge", file, "--base", base, "--out", tmp_path / "merged")
    assert done.returncode == 4
    assert "holds no safetensors weights" in done.stderr
    assert not (tmp_path / "merged").exists()
