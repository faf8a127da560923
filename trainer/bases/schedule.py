"""How a base mixes pictures with noise, read from its own scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.errors import UsageError

Tensor = torch.Tensor
EPSILON, VELOCITY, FLOW = "epsilon", "v_prediction", "flow"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels, numbered from little noise to much.

    Attributes:
        signal: (levels,) factor of the latents, falling to 0.
        noise: (levels,) factor of the noise, rising to 1.
        times: (levels,) what the denoiser is told about each level.
        prediction: `epsilon`, `v_prediction` or `flow`, what the denoiser was trained to return.
    """

    signal: Tensor
    noise: Tensor
    times: Tensor
    prediction: str

    def __len__(self) -> int:
        return len(self.times)

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Latents at these (n,) levels (diffusion: arXiv 2006.11239, eq. 4; flow: arXiv 2403.03206, eq. 13)."""
        return _rows(self.signal, levels) * latents + _rows(self.noise, levels) * noise

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """What the denoiser should return.

        The noise (arXiv 2006.11239, eq. 14), the velocity of the angle (arXiv 2202.00512, section 4) or that of the
        straight line from picture to noise (arXiv 2403.03206, section 3.1).
        """
        if self.prediction == EPSILON:
            return noise
        if self.prediction == FLOW:
            return noise - latents
        return _rows(self.signal, levels) * noise - _rows(self.noise, levels) * latents

    def denoised(self, noisy: Tensor, answer: Tensor, levels: Tensor) -> Tensor:
        """The latents that the denoiser's answer stands for: `noised` solved for them, with `target` in its place."""
        if self.prediction == EPSILON:
            return (noisy - _rows(self.noise, levels) * answer) / _rows(self.signal, levels)
        if self.prediction == FLOW:
            return noisy - _rows(self.noise, levels) * answer
        return _rows(self.signal, levels) * noisy - _rows(self.noise, levels) * answer

    def signal_share(self, levels: Tensor) -> Tensor:
        """(n,) share of the picture in what is noised, 0 to 1: SNR / (1 + SNR), alpha-bar of arXiv 2006.11239."""
        signal, noise = (factors.to(levels.device)[levels].square() for factors in (self.signal, self.noise))
        return signal / (signal + noise)

    def snr(self, levels: Tensor) -> Tensor:
        """(n,) signal-to-noise ratio, 0 up."""
        return (self.signal.to(levels.device)[levels] / self.noise.to(levels.device)[levels]) ** 2


def _rows(factors: Tensor, levels: Tensor) -> Tensor:
    return factors.to(levels.device)[levels].view(-1, 1, 1, 1)


def schedule_of(scheduler: Any, tokens: int) -> Schedule:
    """The schedule that a diffusers scheduler stands for.

    Args:
        scheduler: as loaded, before its first `set_timesteps`.
        tokens: patches of a picture, by which some flow schedules shift towards noise.

    Raises:
        UsageError: for a scheduler that is neither of noise, velocity nor flow.
    """
    if hasattr(scheduler, "time_shift"):
        return _flow_schedule(scheduler, tokens)
    prediction = scheduler.config.get("prediction_type")
    if prediction not in (EPSILON, VELOCITY) or not hasattr(scheduler, "alphas_cumprod"):
        kind = type(scheduler).__name__
        raise UsageError(
            f"the base's scheduler {kind} with prediction type {prediction} cannot be trained",
            "use a base whose scheduler predicts noise, velocity or flow",
        )
    kept = scheduler.alphas_cumprod.clone()
    return Schedule(kept.sqrt(), (1 - kept).sqrt(), torch.arange(len(kept)), str(prediction))


def _flow_schedule(scheduler: Any, tokens: int) -> Schedule:
    """FlowMatchEulerDiscreteScheduler's levels, shifted as sampling shifts them (arXiv 2403.03206, eq. 23)."""
    config = scheduler.config
    sigmas = scheduler.sigmas.flip(0)  # a fixed shift is in them already
    if config.use_dynamic_shifting:
        share = (tokens - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
        mu = config.base_shift + share * (config.max_shift - config.base_shift)
        sigmas = scheduler.time_shift(mu, 1.0, sigmas)
    return Schedule(1 - sigmas, sigmas, sigmas * config.num_train_timesteps, FLOW)
