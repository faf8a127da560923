"""The training loss of one batch."""

from __future__ import annotations

import torch

from trainer.bases.base import Base
from trainer.fit.batches import Batch

Tensor = torch.Tensor


def diffusion_loss(base: Base, batch: Batch, min_snr_gamma: float | None) -> Tensor:
    """Scalar: mean squared error of the denoiser, weighted by place (the face) and by noise level (min-SNR)."""
    kept = base.alphas.to(batch.latents.device)[batch.timesteps].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * batch.latents + (1 - kept).sqrt() * batch.noise
    wanted = base.target(batch.latents, batch.noise, batch.timesteps)
    error = (base.predict(noisy, batch.timesteps, batch.text) - wanted).square() * batch.weight
    per_sample = error.mean(dim=(1, 2, 3))
    if min_snr_gamma is None:
        return per_sample.mean()
    return (per_sample * min_snr_weight(kept.flatten(), min_snr_gamma, base.prediction == "v_prediction")).mean()


def min_snr_weight(alphas: Tensor, gamma: float, velocity: bool) -> Tensor:
    """(n,) min(SNR, gamma) / SNR for noise prediction, / (SNR + 1) for velocity (arXiv 2303.09556, section 3.4)."""
    snr = alphas / (1 - alphas)
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)
