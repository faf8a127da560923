"""Which samples, noise and noise levels belong to a step: a function of the seed and the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trainer.bases.conditioning import Conditioning
from trainer.fit.cache import Cache

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input; the first axis is the sample.

    Attributes:
        view: (n,) int64, which of the cache's views it is, counted sample by sample; None: of no cache.
    """

    latents: Tensor
    text: Conditioning
    weight: Tensor
    noise: Tensor
    timesteps: Tensor
    view: Tensor | None = None


def batch_of(
    cache: Cache, step: int, size: int, seed: int, levels: int, caption_dropout: float, density: str = "uniform"
) -> Batch:
    """The batch of `step`: epochs are shuffled whole, so every sample is seen equally often; no state is kept."""
    rng = np.random.default_rng((seed, step))
    rows = torch.from_numpy(rows_of(len(cache.latents), step, size, seed))
    views = torch.from_numpy(rng.integers(cache.latents.shape[1], size=size))
    wordings = torch.from_numpy(rng.integers(cache.said.shape[2], size=size))
    said = cache.said[rows, views, wordings]
    dropped = torch.from_numpy(rng.random(size) < caption_dropout)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    latents = cache.latents[rows, views]
    return Batch(
        latents=latents,
        text=cache.texts[torch.where(dropped, cache.empty, said)],
        weight=cache.weight[rows, views],
        noise=torch.randn(latents.shape, generator=generator),
        timesteps=stratified_levels(size, levels, rng, density),
        view=rows * cache.latents.shape[1] + views,
    )


def rows_of(count: int, step: int, size: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which of `count` samples each row of the batch of `step` is."""
    positions = np.arange(step * size, (step + 1) * size)
    epochs = {int(e): np.random.default_rng((seed, 1, int(e))).permutation(count) for e in set(positions // count)}
    return np.array([epochs[int(p // count)][p % count] for p in positions], np.int64)


def stratified_levels(size: int, levels: int, rng: np.random.Generator, density: str = "uniform") -> Tensor:
    """(size,) noise levels, one in each of `size` equally likely bands: less variance than independent draws.

    Kingma et al., arXiv 2107.00630, appendix I.1. `logit-normal` is arXiv 2403.03206, eq. 19, with mean 0 and
    deviation 1: the middle levels are drawn more often.
    """
    bands = (np.arange(size) + rng.random()) / size
    if density == "logit-normal":
        bands = torch.special.expit(torch.special.ndtri(torch.from_numpy(bands))).numpy()
    return torch.from_numpy(rng.permutation(np.minimum((bands * levels).astype(np.int64), levels - 1)))
