"""The loss: hand-computed weights, and the whole of it written out sample by sample."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.bases.base import Base, get_base
from trainer.fit.batches import Batch
from trainer.fit.lora import Shape, add_lora
from trainer.fit.objective import debiased_weight, diffusion_loss, examples_of, joined, min_snr_weight

SNR = torch.tensor([1.0, 9.0, 99.0, 1 / 9])


def test_min_snr_of_noise_prediction_is_capped_over_snr() -> None:
    wanted = torch.tensor([min(snr, 5.0) / snr for snr in SNR])
    torch.testing.assert_close(min_snr_weight(SNR, 5.0, "epsilon"), wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(wanted, torch.tensor([1.0, 5 / 9, 5 / 99, 1.0]))


def test_min_snr_of_velocity_has_one_more_below() -> None:
    wanted = torch.tensor([1 / 2, 5 / 10, 5 / 100, (1 / 9) / (10 / 9)])
    torch.testing.assert_close(min_snr_weight(SNR, 5.0, "v_prediction"), wanted, rtol=1e-4, atol=0)


def test_min_snr_of_a_flow_weighs_the_error_in_the_picture() -> None:
    sigma = torch.tensor([0.5, 0.25, 0.1, 0.75])
    snr = ((1 - sigma) / sigma) ** 2
    error = 0.3  # of the velocity; the picture is noisy - sigma * velocity, so its error is sigma times that
    weighted = min_snr_weight(snr, 5.0, "flow") * error**2
    torch.testing.assert_close(weighted, snr.clamp(max=5.0) * (sigma * error) ** 2)


def test_debiased_weights_of_noise_velocity_and_flow() -> None:
    wanted = {
        "epsilon": [1.0, 1 / 3, 99**-0.5, 3.0],
        "v_prediction": [1 / 2, 3 / 10, 99**0.5 / 100, (1 / 3) / (10 / 9)],
        "flow": [1 / 4, 3 / 16, 99**0.5 / (1 + 99**0.5) ** 2, (1 / 3) / (4 / 3) ** 2],
    }
    for prediction, weights in wanted.items():
        torch.testing.assert_close(debiased_weight(SNR, prediction), torch.tensor(weights), rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_a_schedule_that_ends_in_pure_noise_is_weighed_with_a_number(prediction: str) -> None:
    assert bool(torch.isfinite(debiased_weight(torch.tensor([0.0]), prediction)).all())


@pytest.fixture
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


def batch(base: Base, size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn((size, 4, 16, 16), generator=generator) for _ in range(2))
    text = base.encode_texts(["photo of ohwx person"] * size)
    return Batch(
        latents, text, torch.ones(size, 1, 16, 16), noise, torch.tensor([0, 300, 700, 999][:size]), torch.arange(size)
    )


def by_hand(base: Base, given: Batch) -> torch.Tensor:
    """(n, 4, 16, 16) squared errors of the velocity, written out sample by sample."""
    rows = []
    for row, (z, noise, t) in enumerate(zip(given.latents, given.noise, given.timesteps, strict=True)):
        a, b = base.schedule.signal[t], base.schedule.noise[t]
        text = given.text[torch.tensor([row])]
        rows.append((base.predict((a * z + b * noise)[None], t[None], text)[0] - (a * noise - b * z)) ** 2)
    return torch.stack(rows)


@torch.no_grad()
def test_the_loss_is_the_mean_squared_error_of_the_velocity(base: Base) -> None:
    given = batch(base)
    loss = diffusion_loss(base, examples_of(base, given), "uniform", None)
    torch.testing.assert_close(loss, by_hand(base, given).mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_places_and_noise_levels_are_weighted(base: Base) -> None:
    given = batch(base)
    weight = torch.ones(4, 1, 16, 16)
    weight[:, :, :8] = 0
    snr = (base.schedule.signal / base.schedule.noise)[given.timesteps] ** 2
    levels = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    errors = by_hand(base, given)
    errors[:, :, :8] = 0
    loss = diffusion_loss(base, examples_of(base, replace(given, weight=weight)), "min_snr", 5.0)
    torch.testing.assert_close(loss, errors.mean((1, 2, 3)) * levels, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_debiased_loss_is_the_weighted_one(base: Base) -> None:
    given = batch(base)
    levels = debiased_weight(base.schedule.snr(given.timesteps), "v_prediction")
    loss = diffusion_loss(base, examples_of(base, given), "debiased", None)
    torch.testing.assert_close(loss, by_hand(base, given).mean((1, 2, 3)) * levels, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_joined_rows_are_those_of_the_parts(base: Base) -> None:
    whole = examples_of(base, batch(base))
    again = joined([whole.rows(torch.tensor([2])), whole.rows(torch.tensor([0, 3]))])
    both = diffusion_loss(base, again, "uniform", None)
    torch.testing.assert_close(both, diffusion_loss(base, whole, "uniform", None)[[2, 0, 3]], rtol=1e-4, atol=1e-5)


def test_the_gradient_reaches_the_adapter_and_nothing_else(base: Base) -> None:
    parameters = list(add_lora(base.denoiser, Shape(4, 4.0, base.lora_targets("attention+conv")), 0).values())
    diffusion_loss(base, examples_of(base, batch(base)), "min_snr", 5.0).sum().backward()
    moved = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters]
    assert sum(moved) == len(parameters) // 2  # B moves first: while it is zero, A has no gradient
    assert all(p.grad is None for p in base.denoiser.parameters() if not p.requires_grad)
