"""Whole runs on tiny random models of larger families: photos to an adapter that their stock pipelines load."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from trainer.adapter import describe

STOCK = """
import sys
import numpy as np, torch
from diffusers import DiffusionPipeline
base, folder, name = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(base)
pipe.set_progress_bar_config(disable=True)
def picture():
    return pipe("photo of ohwx person", num_inference_steps=2, generator=torch.Generator().manual_seed(0),
                height=128, width=128, output_type="np").images[0]
before = picture()
pipe.load_lora_weights(folder, weight_name=name)
denoiser = getattr(pipe, "unet", None) or pipe.transformer
print(sum("lora_" in n for n, _ in denoiser.named_parameters()), float(np.abs(picture() - before).max()))
"""


def arguments(name: str, fast: list[str], **values: Any) -> list[str]:
    chosen = {"name": name, "base.name": name, "base.size_px": 128, "fit.noise_levels": "logit-normal"} | values
    return [*fast, *(a for key, value in chosen.items() for a in ("--set", f"{key}={value}"))]


@pytest.mark.parametrize("name", ["sdxl", "flux1"])
def test_photos_become_an_adapter_of_that_family(
    name: str, cli: Command, fast: list[str], photos: Path, tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_base(name)
    said = arguments(name, fast, **{"base.path": folder, "export.kohya": False})
    done = cli("train", "zelda", "--photos", photos, "--json", *said)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["stages"]["4_export"]["parity_levels"] <= 2
    adapter = tmp_path / result["adapter"]
    command = [sys.executable, "-c", STOCK, str(folder), str(adapter.parent), adapter.name]
    stock = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert stock.returncode == 0, stock.stderr
    taken, changed = stock.stdout.split()
    assert int(taken) == describe(adapter)["tensors"] > 10
    assert float(changed) > 0


def test_the_size_is_the_recipe_s(
    cli: Command, fast: list[str], photos: Path, tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    from PIL import Image

    said = arguments("sdxl", fast, **{"base.path": tiny_base("sdxl"), "base.size_px": 192})
    assert cli("prepare", "zelda", "--photos", photos, *said).returncode == 0
    (picture, *_) = (tmp_path / "runs/zelda/latest/1_prepare/images").glob("*.png")
    with Image.open(picture) as opened:
        assert opened.size == (192, 192)
    said = arguments("sdxl", fast, **{"base.path": tiny_base("sdxl"), "base.size_px": 200})
    done = cli("prepare", "zelda", "--photos", photos, "--json", *said)
    assert done.returncode == 2
    assert "no multiple of 16" in json.loads(done.stdout)["error"]["message"]


def test_a_pickle_is_wrong_usage(cli: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    said = ["--set", "base.name=sd15", "--set", f"base.path={tmp_path}/model.ckpt"]
    done = cli("prepare", "zelda", "--photos", photos, "--json", *said)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "usage"
