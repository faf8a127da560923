"""The shipped recipe on the demo person with the embedded base, smaller but whole: photos to a scored adapter."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command, hashes

SMALLER = {
    "fit.steps": 40, "fit.checkpoint_every": 20, "fit.batch_size": 4,
    "evaluate.seeds": 1, "evaluate.sampling_steps": 8, "evaluate.select_prompts": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def result(home: Path, demo_photos: Path, command: Command, weights: Path) -> dict[str, Any]:
    assert (ROOT / "trainer/bases/portrait_tiny/model_index.json").is_file(), "the embedded base is not there"
    before = hashes(demo_photos)
    overrides = [argument for key, value in SMALLER.items() for argument in ("--set", f"{key}={value}")]
    done = command(home, "train", "demo", "--photos", demo_photos, "--json", *overrides)
    assert done.returncode == 0, done.stderr
    assert hashes(demo_photos) == before
    said: dict[str, Any] = json.loads(done.stdout)["result"]
    return said


def test_photos_become_a_scored_adapter(result: dict[str, Any], home: Path) -> None:
    assert (home / result["adapter"]).is_file()
    assert result["stages"]["4_export"]["parity_levels"] <= 2
    card = json.loads((home / result["scorecard"]).read_text())
    identity = card["identity"]
    assert math.isfinite(identity["of_ceiling"])
    assert card["detection_rate"] > 0.5
    assert identity["mean"] > identity["floor_base"]
    assert identity["ceiling"] > identity["floor_strangers"] + 0.1


def test_the_adapter_and_the_base_open_in_plain_diffusers(result: dict[str, Any], home: Path) -> None:
    adapter = home / result["adapter"]
    code = (
        "import sys, diffusers\n"
        f"pipe = diffusers.StableDiffusionPipeline.from_pretrained({result['base_folder']!r})\n"
        f"pipe.load_lora_weights({str(adapter.parent)!r}, weight_name={adapter.name!r})\n"
        "pipe('photo of ohwx person', guidance_scale=2, num_inference_steps=4).images[0].save('picture.png')\n"
        "assert 'trainer' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (home / "picture.png").is_file()
