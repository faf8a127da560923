"""A base in 8 or 4 bits: close to itself, as small as counted, and its adapter works on the base as it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import SAVERS

from trainer.bases.base import Base, get_base
from trainer.bases.quantize import is_quantized, scales_of
from trainer.bases.sketch import sketch
from trainer.console import Console
from trainer.errors import MissingPartError
from trainer.fit import stage
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.tally import tally
from trainer.jobs import fit_settings
from trainer.recipe import load_recipe

FORMATS = {"int8": 0.05, "nf4": 0.25}  # and how far off the largest answer may be
WORDS = ["photo of ohwx person", ""]


def settings_of(**values: Any) -> stage.Settings:
    chosen = {"rank": 4, "alpha": 4.0, "targets": "attention", "batch_size": 2, "prior_batch": 0, "wordings": 1}
    return replace(fit_settings(load_recipe("portrait-tiny").recipe), **(chosen | values))


def answer(base: Base) -> torch.Tensor:
    noisy = torch.randn(base.encode_images([torch.zeros(128, 128, 3, dtype=torch.uint8).numpy()]).shape)
    with torch.no_grad():
        return base.predict(noisy.expand(2, -1, -1, -1), torch.tensor([200, 700]), base.encode_texts(WORDS))


def bytes_of(base: Base) -> int:
    own = [*base.denoiser.parameters(), *base.denoiser.buffers(), *scales_of(base.denoiser)]
    return sum(tensor.numel() * tensor.element_size() for tensor in own)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", SAVERS)
def test_it_says_almost_the_same_in_the_bytes_that_were_counted(
    name: str, kind: str, tiny_base: Callable[[str], Path]
) -> None:
    whole, small = (get_base(name, str(tiny_base(name)), size_px=128, quantize=one) for one in ("none", kind))
    torch.manual_seed(0)
    wanted = answer(whole)
    torch.manual_seed(0)
    found = answer(small)
    assert 0 < float((found - wanted).abs().max()) < FORMATS[kind] * float(wanted.abs().max())
    assert any(is_quantized(module) for module in small.denoiser.modules())
    counted = tally(sketch(name, str(tiny_base(name)), size_px=128, quantize=kind), settings_of(), torch.device("cpu"))
    assert bytes_of(small) == counted.frozen < bytes_of(whole)
    assert counted.step > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_a_fit_under_it_makes_an_adapter_of_the_base_as_it_is(
    kind: str, random_base: Path, samples: Path, tmp_path: Path
) -> None:
    s = settings_of(
        steps=40, checkpoint_every=40, learning_rate=5e-3, warmup_steps=0, mirror=False, weighting="uniform"
    )
    base = get_base("sd15", str(random_base), size_px=128, quantize=kind)
    (tmp_path / "fit").mkdir()
    stage.fit(samples, base, s, tmp_path / "fit", Console(quiet=True))
    (checkpoint,) = find_checkpoints(tmp_path / "fit")
    plain = get_base("sd15", str(random_base), size_px=128)
    before = loss_of(plain, samples, s)
    plain.use_adapter(checkpoint.adapter)
    assert loss_of(plain, samples, s) < 0.97 * before


def loss_of(base: Base, samples: Path, s: stage.Settings) -> float:
    """Mean over the samples at fixed noise."""
    from trainer.fit.batches import Batch
    from trainer.fit.cache import build_cache, read_samples
    from trainer.fit.objective import diffusion_loss, examples_of

    found = read_samples(samples)
    cache = build_cache(found, [[sample.caption] for sample in found], base, False, 1.0, lambda: None)
    rows = torch.arange(8) % 2
    latents, weight = (torch.stack([of[row][0] for row in rows.tolist()]) for of in (cache.latents, cache.weight))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    batch = Batch(
        latents, cache.texts[cache.said[rows, 0, 0]], weight, noise, torch.arange(8) * 120 + 60, torch.arange(8)
    )
    with torch.no_grad():
        return float(diffusion_loss(base, examples_of(base, batch), s.weighting, s.min_snr_gamma).mean())


def test_an_unfinished_fit_under_it_resumes_bit_for_bit(random_base: Path, samples: Path, tmp_path: Path) -> None:
    """The frozen weights are rounded alike each time."""
    first, second = (get_base("sd15", str(random_base), size_px=128, quantize="nf4") for _ in range(2))
    for one, other in zip(first.denoiser.parameters(), second.denoiser.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(map(torch.equal, scales_of(first.denoiser), scales_of(second.denoiser)))


def test_without_the_library_it_says_what_to_install(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingPartError, match="bitsandbytes") as raised:
        get_base("sd15", str(random_base), quantize="nf4")
    assert "likeness-trainer[gpu]" in str(raised.value.hint)
