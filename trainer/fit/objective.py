"""What the denoiser is shown and what it should answer, and the loss between the two."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.bases.base import Base
from trainer.fit.batches import Batch

Tensor = torch.Tensor
MIN_SNR = 1e-3  # below, a schedule that ends in pure noise would weigh without bound


@dataclass(frozen=True, slots=True)
class Examples:
    """Questions to the denoiser and the answers wanted; the first axis is the row.

    Attributes:
        noisy: (n, channels, height, width) noised latents.
        timesteps: (n,) their noise levels.
        text: (n, tokens, width) caption embeddings.
        wanted: what `Base.predict` should return, of the shape of `noisy`.
        weight: (n, 1, height, width) loss weights by place.
    """

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    wanted: Tensor
    weight: Tensor

    def rows(self, index: Tensor) -> Examples:
        """The rows at these indices."""
        return Examples(*(getattr(self, name)[index] for name in Examples.__slots__))

    def to(self, device: torch.device) -> Examples:
        """The same on that device."""
        return Examples(*(getattr(self, name).to(device) for name in Examples.__slots__))


def joined(parts: list[Examples]) -> Examples:
    """All rows of all parts, in order."""
    return Examples(*(torch.cat([getattr(part, name) for part in parts]) for name in Examples.__slots__))


def examples_of(base: Base, batch: Batch) -> Examples:
    """The batch noised, with the target that belongs to the base's kind of prediction."""
    noisy = noised(base.alphas, batch.latents, batch.noise, batch.timesteps)
    wanted = base.target(batch.latents, batch.noise, batch.timesteps)
    return Examples(noisy, batch.timesteps, batch.text, wanted, batch.weight)


def noised(alphas: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """sqrt(alpha) latents + sqrt(1 - alpha) noise (arXiv 2006.11239, eq. 4)."""
    kept = alphas[timesteps].view(-1, 1, 1, 1)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def diffusion_loss(base: Base, given: Examples, weighting: str, min_snr_gamma: float | None) -> Tensor:
    """(n,) mean squared error of each row, weighted by place (the face) and by noise level.

    Args:
        weighting: `uniform`, `min_snr` (with its gamma) or `debiased`.
    """
    error = (base.predict(given.noisy, given.timesteps, given.text) - given.wanted).square() * given.weight
    per_row = error.mean(dim=(1, 2, 3))
    if weighting == "uniform":
        return per_row
    kept = base.alphas.to(per_row.device)[given.timesteps]
    velocity = base.prediction == "v_prediction"
    if weighting == "debiased":
        return per_row * debiased_weight(kept, velocity)
    assert min_snr_gamma is not None, "the recipe sees to it"
    return per_row * min_snr_weight(kept, min_snr_gamma, velocity)


def min_snr_weight(alphas: Tensor, gamma: float, velocity: bool) -> Tensor:
    """(n,) min(SNR, gamma) / SNR for noise prediction, / (SNR + 1) for velocity (arXiv 2303.09556, section 3.4)."""
    snr = alphas / (1 - alphas)
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def debiased_weight(alphas: Tensor, velocity: bool) -> Tensor:
    """(n,) 1 / sqrt(SNR) for noise prediction (arXiv 2310.08442), sqrt(SNR) / (SNR + 1) for velocity.

    Both weigh the same error: that of the noise is SNR / (SNR + 1) times that of the velocity.
    """
    snr = (alphas / (1 - alphas)).clamp(min=MIN_SNR)
    return snr.sqrt() / (snr + 1 if velocity else snr)
