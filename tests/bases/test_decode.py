"""Every family's latents become pictures that gradients pass through, before and after everything else is freed."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bases import SAVERS, load

from trainer.bases.base import Base
from trainer.records import RGB

SIZE_PX = 128
PICTURES: list[RGB] = list(np.random.default_rng(0).integers(0, 256, (2, SIZE_PX, SIZE_PX, 3), np.uint8))


@pytest.fixture(params=SAVERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tiny_base: Callable[[str], Path]) -> Path:
    return tiny_base(name)


def test_a_picture_is_what_the_stock_vae_makes_of_its_own_latents(name: str, folder: Path) -> None:
    from diffusers import DiffusionPipeline

    base, vae = load(name, folder), DiffusionPipeline.from_pretrained(folder).vae
    pixels = torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        if name == "qwen-image":
            wanted = vae.decode(vae.encode(pixels[:, :, None]).latent_dist.mode()).sample[:, :, 0]
        else:
            wanted = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        found = base.decode(base.encode_images(PICTURES))
    assert found.shape == (2, 3, SIZE_PX, SIZE_PX)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def weighed(base: Base, latents: torch.Tensor) -> torch.Tensor:
    """A number that hangs on every pixel."""
    weights = torch.randn((len(latents), 3, SIZE_PX, SIZE_PX), generator=torch.Generator().manual_seed(1))
    return (base.decode(latents) * weights).sum()


def gradient_of(base: Base, latents: torch.Tensor) -> torch.Tensor:
    latents = latents.clone().requires_grad_()
    weighed(base, latents).backward()
    assert latents.grad is not None
    return latents.grad


def test_its_gradient_is_that_of_finite_differences(name: str, folder: Path) -> None:
    base = load(name, folder)
    latents = base.encode_images(PICTURES[:1])
    gradient = gradient_of(base, latents)
    assert all(parameter.grad is None for parameter in base._pipeline.vae.parameters())  # type: ignore[attr-defined]
    ahead = gradient / gradient.norm()
    with torch.no_grad():
        ends = [float(weighed(base, latents + step * ahead)) for step in (1e-2, -1e-2)]
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.02)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_released_base_decodes_alike_where_that_was_asked_for(recompute: bool, name: str, folder: Path) -> None:
    base = load(name, folder)
    latents = base.encode_images(PICTURES)
    before = gradient_of(base, latents)
    pipeline: Any = base._pipeline  # type: ignore[attr-defined]
    encoder, words = weakref.ref(pipeline.vae.encoder), weakref.ref(pipeline.text_encoder)
    del pipeline
    base.release(decoder=True, recompute=recompute)
    torch.testing.assert_close(gradient_of(base, latents), before, rtol=0, atol=0)
    assert encoder() is None
    assert words() is None
    if recompute and name != "qwen-image":  # whose class cannot
        assert base._decoder.is_gradient_checkpointing  # type: ignore[attr-defined]


def test_in_bf16_it_is_close(name: str, folder: Path) -> None:
    base, half = load(name, folder), load(name, folder, "bf16")
    with torch.no_grad():
        latents = base.encode_images(PICTURES)
        wanted, found = base.decode(latents), half.decode(latents)
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
