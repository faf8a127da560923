"""What the denoiser is shown and what it should answer, and the loss between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from trainer.bases.base import Base
from trainer.bases.conditioning import Conditioning, joined_texts
from trainer.bases.schedule import EPSILON, FLOW, Schedule
from trainer.fit.batches import Batch

Tensor = torch.Tensor
NO_VIEW = -1
MIN_SNR = 1e-3  # below, a schedule that ends in pure noise would weigh without bound


@dataclass(frozen=True, slots=True)
class Examples:
    """Questions to the denoiser and the answers wanted; the first axis is the row.

    Attributes:
        noisy: (n, channels, height, width) noised latents.
        timesteps: (n,) their noise levels.
        text: n encoded captions.
        wanted: what `Base.predict` should return, of the shape of `noisy`.
        weight: (n, 1, height, width) loss weights by place.
        view: (n,) as of `Batch`; NO_VIEW for what the base itself has answered.
    """

    noisy: Tensor
    timesteps: Tensor
    text: Conditioning
    wanted: Tensor
    weight: Tensor
    view: Tensor

    def rows(self, index: Tensor) -> Examples:
        """The rows at these indices."""
        return Examples(*(getattr(self, name)[index] for name in Examples.__slots__))

    def to(self, device: torch.device) -> Examples:
        """The same on that device."""
        return Examples(*(getattr(self, name).to(device) for name in Examples.__slots__))


def joined(parts: list[Examples]) -> Examples:
    """All rows of all parts, in order."""
    return Examples(
        noisy=torch.cat([part.noisy for part in parts]),
        timesteps=torch.cat([part.timesteps for part in parts]),
        text=joined_texts([part.text for part in parts]),
        wanted=torch.cat([part.wanted for part in parts]),
        weight=torch.cat([part.weight for part in parts]),
        view=torch.cat([part.view for part in parts]),
    )


def examples_of(base: Base, batch: Batch) -> Examples:
    """The batch noised, with the target that belongs to the base's kind of prediction."""
    noisy = base.schedule.noised(batch.latents, batch.noise, batch.timesteps)
    wanted = base.schedule.target(batch.latents, batch.noise, batch.timesteps)
    view = torch.full_like(batch.timesteps, NO_VIEW) if batch.view is None else batch.view
    return Examples(noisy, batch.timesteps, batch.text, wanted, batch.weight, view)


class Answers(Protocol):
    """The part of a base that a loss asks."""

    @property
    def schedule(self) -> Schedule:
        """As of `Base`."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """As of `Base`."""
        ...


def diffusion_loss(
    base: Answers,
    given: Examples,
    weighting: str,
    min_snr_gamma: float | None,
    also: Callable[[Examples, Tensor], Tensor] | None = None,
) -> Tensor:
    """(n,) mean squared error of each row, weighted by place (the face) and by noise level.

    Args:
        weighting: `uniform`, `min_snr` (with its gamma) or `debiased`.
        also: (rows, the base's answers) to (n,) losses that are added.
    """
    answer = base.predict(given.noisy, given.timesteps, given.text)
    error = (answer - given.wanted).square() * given.weight
    losses = _weighted(error.mean(dim=(1, 2, 3)), base.schedule, given.timesteps, weighting, min_snr_gamma)
    return losses if also is None else losses + also(given, answer)


def _weighted(
    per_row: Tensor, schedule: Schedule, timesteps: Tensor, weighting: str, min_snr_gamma: float | None
) -> Tensor:
    """The (n,) losses times their weights by noise level."""
    if weighting == "uniform":
        return per_row
    snr = schedule.snr(timesteps)
    if weighting == "debiased":
        return per_row * debiased_weight(snr, schedule.prediction)
    assert min_snr_gamma is not None, "the recipe sees to it"
    return per_row * min_snr_weight(snr, min_snr_gamma, schedule.prediction)


def min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """(n,) weights that make min(SNR, gamma) the weight of the error in the picture (arXiv 2303.09556, section 3.4)."""
    return snr.clamp(max=gamma) / _picture_error(snr, prediction)


def debiased_weight(snr: Tensor, prediction: str) -> Tensor:
    """(n,) weights that make 1 / sqrt(SNR) the weight of the error in the noise (arXiv 2310.08442).

    That is sqrt(SNR) for the error in the picture, which is the other divided by the SNR.
    """
    snr = snr.clamp(min=MIN_SNR)
    return snr.sqrt() / _picture_error(snr, prediction)


def _picture_error(snr: Tensor, prediction: str) -> Tensor:
    """(n,) how much larger the squared error in the answer is than that in the picture which it stands for.

    SNR for noise, SNR + 1 for velocity. A flow's answer turned into a picture is multiplied by
    sigma = 1 / (1 + sqrt(SNR)).
    """
    return {EPSILON: snr, FLOW: (1 + snr.sqrt()) ** 2}.get(prediction, snr + 1)
