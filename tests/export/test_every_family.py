"""The gate for every family of transformer: both files are written, read back whole and draw the scored pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer.adapter import describe, read_adapter, tensors_sha256, write_adapter
from trainer.bases.base import Base, get_base
from trainer.export import stage
from trainer.layouts.layer import Tensors
from trainer.layouts.layers import read_layers, to_diffusers
from trainer.records import Checkpoint

PROMPTS, SEEDS, STEPS, GUIDANCE = ["photo of ohwx person", "photo of ohwx person, smiling"], [7, 8], 2, 3.0
FAMILIES = {"sd3": None, "flux1": None, "flux2-klein": 0, "qwen-image": 0, "z-image": 0}


def strong_adapter(base: Base) -> Tensors:
    """Random factors for the layers that a fit would adapt, strong enough to be seen."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, module in base.denoiser.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(base.lora_targets("attention+conv"))):
            outside, inside = module.weight.shape
            stem = f"{base.component}.{name}"
            tensors[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(4, inside, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(outside, 4, generator=generator)
    return tensors


@pytest.fixture
def evaluated(trained: dict[str, Any], tmp_path: Path) -> Path:
    """A scorecard beside no pictures yet."""
    run = (trained["home"] / trained["result"]["adapter"]).parent.parent
    folder = tmp_path / "3_evaluate"
    (folder / "samples").mkdir(parents=True)
    (folder / "scorecard.json").write_bytes((run / "3_evaluate/scorecard.json").read_bytes())
    return folder


def draw(base: Base, adapter: Path, folder: Path) -> None:
    """The first batch, as the evaluation leaves it."""
    names = [f"{index}.png" for index in range(len(PROMPTS))]
    base.use_adapter(adapter)
    base.sample(
        PROMPTS, SEEDS, STEPS, GUIDANCE, 2, lambda index, picture: Image.fromarray(picture).save(folder / names[index])
    )
    batch = {"prompts": PROMPTS, "seeds": SEEDS, "steps": STEPS, "guidance": GUIDANCE, "files": names}
    (folder / "adapter.json").write_text(json.dumps(batch))


@pytest.mark.parametrize("name", FAMILIES)
def test_both_files_pass_the_gate(name: str, tiny_base: Callable[[str], Path], evaluated: Path, tmp_path: Path) -> None:
    base = get_base(name, str(tiny_base(name)), size_px=128)
    checkpoint = tmp_path / "checkpoint.safetensors"
    tensors = strong_adapter(base)
    write_adapter(checkpoint, tensors, {"format": "pt"})
    draw(base, checkpoint, evaluated / "samples")
    folder = tmp_path / "4_export"
    folder.mkdir()
    settings = stage.Settings("zelda", "ohwx", "person", 4, "fp32", True, "other")
    facts = stage.export(Checkpoint(4, checkpoint), base.fresh(), evaluated, settings, None, folder)
    assert "no_kohya" not in facts
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parity"] == {"zelda.safetensors": 0, "zelda.kohya.safetensors": FAMILIES[name]}
    twin = folder / "zelda.kohya.safetensors"
    assert describe(twin)["layout"] == "kohya"
    again, _ = to_diffusers(read_layers(twin, *read_adapter(twin)))
    assert tensors_sha256(again) == tensors_sha256(tensors)
