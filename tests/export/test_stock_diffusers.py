"""Both exported files load in stock diffusers, in a process that has never heard of this project."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Loads base and adapter, and says which tensors went where, what they changed, and whether trainer was imported.
STOCK = """
import hashlib, json, sys
import numpy as np
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
import torch

base, folder, name = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
pipe.set_progress_bar_config(disable=True)
def picture():
    return pipe("photo of ohwx person", num_inference_steps=2, generator=torch.Generator().manual_seed(0),
                height=128, width=128, output_type="np").images[0]
before = picture()
pipe.load_lora_weights(folder, weight_name=name)
taken = {n: p.double().abs().sum().item() for n, p in pipe.unet.named_parameters() if "lora_" in n}
with safe_open(f"{folder}/{name}", "pt") as file:
    weights = [file.get_tensor(key) for key in file.keys() if not key.endswith(".alpha")]
print(json.dumps({
    "taken": taken,
    "in_file": [w.double().abs().sum().item() for w in weights],
    "scales": sorted({s for m in pipe.unet.modules() for s in getattr(m, "scaling", {}).values()}),
    "changed": float(np.abs(picture() - before).max()),
    "picture": hashlib.sha256(picture().tobytes()).hexdigest(),
    "trainer": "trainer" in sys.modules,
}))
"""


@pytest.fixture(scope="module")
def loaded(trained: dict[str, Any], random_base: Path) -> dict[str, dict[str, Any]]:
    """What stock diffusers says of each file."""
    folder = trained["home"] / Path(trained["result"]["adapter"]).parent
    said = {}
    for name in ("zelda.safetensors", "zelda.kohya.safetensors"):
        command = [sys.executable, "-c", STOCK, str(random_base), str(folder), name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said[name] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("name", ["zelda.safetensors", "zelda.kohya.safetensors"])
def test_every_tensor_is_taken_with_scale_one(name: str, loaded: dict[str, dict[str, Any]]) -> None:
    said = loaded[name]
    assert not said["trainer"]
    assert sorted(said["taken"].values()) == pytest.approx(sorted(said["in_file"]), rel=1e-6)
    assert said["scales"] == [1.0]
    assert said["changed"] > 0


def test_both_files_put_the_same_tensors_in_the_same_places(loaded: dict[str, dict[str, Any]]) -> None:
    plain, kohya = loaded.values()
    renamed = {re.sub(r"(lora_[AB])\.[^.]+", r"\1", name): total for name, total in plain["taken"].items()}
    assert len(renamed) > 50
    assert renamed == {re.sub(r"(lora_[AB])\.[^.]+", r"\1", name): total for name, total in kohya["taken"].items()}
    assert plain["picture"] == kohya["picture"]
