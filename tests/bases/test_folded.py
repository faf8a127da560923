"""An adapter folded into the weights: the same pictures but for rounding, and a base that comes back bit for bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import adapter_for
from safetensors.torch import save_file

from trainer.bases.base import Base, get_base


def pictures(base: Base) -> np.ndarray:
    made: dict[int, np.ndarray] = {}
    base.sample(["photo of ohwx person", "smiling"], [0, 1], 3, 3.0, 2, made.__setitem__)
    return np.stack([made[index] for index in sorted(made)]).astype(int)


def weights(base: Base) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in base.denoiser.state_dict().items()}


@pytest.fixture
def adapter(random_base: Path, tmp_path: Path) -> Path:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(random_base)
    factors = adapter_for(pipeline, ("to_q", "to_v", "conv1", "conv2", "proj_in"))
    save_file({name: 3 * tensor for name, tensor in factors.items()}, tmp_path / "strong.safetensors")
    return tmp_path / "strong.safetensors"


def test_folded_pictures_are_those_of_the_adapter_and_the_base_is_left_as_it_was(
    random_base: Path, adapter: Path
) -> None:
    base = get_base("portrait-tiny", str(random_base))
    before, plain = weights(base), pictures(base)
    base.use_adapter(adapter)
    beside = pictures(base)
    base.use_adapter(adapter, folded=True)
    folded = pictures(base)
    assert np.abs(beside - plain).max() > 20  # the adapter does something
    assert np.abs(folded - beside).max() <= 1
    base.use_adapter(None)
    after = weights(base)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert np.array_equal(pictures(base), plain)


def test_one_folded_adapter_after_another_leaves_nothing_of_the_first(random_base: Path, adapter: Path) -> None:
    base = get_base("portrait-tiny", str(random_base))
    base.use_adapter(adapter, folded=True)
    once = pictures(base)
    base.use_adapter(adapter, folded=True)
    assert np.array_equal(pictures(base), once)


def test_narrow_weights_are_never_folded(tiny_base: Callable[[str], Path], tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    folder = tiny_base("sdxl")
    factors = adapter_for(StableDiffusionXLPipeline.from_pretrained(folder), ("to_q", "to_v"))
    unet = {name: tensor for name, tensor in factors.items() if name.startswith("unet.")}
    save_file(unet, tmp_path / "a.safetensors")
    base = get_base("sdxl", str(folder), precision="bf16")
    before = {name: tensor for name, tensor in weights(base).items() if name.endswith("to_q.weight")}
    base.use_adapter(tmp_path / "a.safetensors", folded=True)
    held = {name.replace(".base_layer", ""): tensor for name, tensor in weights(base).items()}
    assert before
    assert all(torch.equal(held[name], tensor) for name, tensor in before.items())
