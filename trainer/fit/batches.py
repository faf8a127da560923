"""Which samples, noise and noise levels belong to a step: a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.bases.conditioning import Conditioning
from trainer.fit.cache import Cache

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step's input that are of one shape; the first axis is the sample.

    Attributes:
        places: (n,) int64, which rows of the step's batch these are.
        view: (n,) int64, which of the cache's views it is, counted sample by sample; None: of no cache.
    """

    latents: Tensor
    text: Conditioning
    weight: Tensor
    noise: Tensor
    timesteps: Tensor
    places: Tensor
    view: Tensor | None = None


def batch_of(
    cache: Cache, step: int, size: int, seed: int, levels: int, caption_dropout: float, density: str = "uniform"
) -> list[Batch]:
    """The batch of `step`, its rows parted by shape: a denoiser is asked about one shape at a time.

    Epochs are shuffled whole, so every sample is seen equally often; no state is kept.
    """
    rng = np.random.default_rng((seed, step))
    rows = rows_of(cache.shapes, step, size, seed)
    views = rng.integers(len(cache.latents[0]), size=size)
    wordings = torch.from_numpy(rng.integers(cache.said.shape[2], size=size))
    said = cache.said[torch.from_numpy(rows), torch.from_numpy(views), wordings]
    dropped = torch.from_numpy(rng.random(size) < caption_dropout)
    said = torch.where(dropped, cache.empty, said)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    timesteps = stratified_levels(size, levels, rng, density)
    batches = []
    for places in alike([cache.shapes[row] for row in rows]):
        drawn = [(int(rows[place]), int(views[place])) for place in places]
        latents = torch.stack([cache.latents[row][view] for row, view in drawn])
        weight = torch.stack([cache.weight[row][view] for row, view in drawn])
        noise = torch.randn(latents.shape, generator=generator)
        which = torch.tensor([row * len(cache.latents[0]) + view for row, view in drawn])
        batches.append(Batch(latents, cache.texts[said[places]], weight, noise, timesteps[places], places, which))
    return batches


def alike(shapes: Sequence[Hashable]) -> list[Tensor]:
    """The (n,) int64 indices of each different shape, in the order of their first."""
    found: dict[Hashable, list[int]] = {}
    for index, shape in enumerate(shapes):
        found.setdefault(shape, []).append(index)
    return [torch.tensor(indices) for indices in found.values()]


def rows_of(shapes: Sequence[Hashable], step: int, size: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which of the samples of these shapes each row of the batch of `step` is.

    An epoch's order is a permutation in which samples of one shape are drawn together, `size` at a time, where the
    first of them was: a batch is of few shapes, and it is the plain permutation where all have one.
    """
    count = len(shapes)
    positions = np.arange(step * size, (step + 1) * size)
    epochs = {int(e): _epoch(shapes, size, seed, int(e)) for e in set(positions // count)}
    return np.array([epochs[int(p // count)][p % count] for p in positions], np.int64)


def _epoch(shapes: Sequence[Hashable], size: int, seed: int, epoch: int) -> list[int]:
    """All samples once."""
    order = np.random.default_rng((seed, 1, epoch)).permutation(len(shapes)).tolist()
    blocks = [
        places[start : start + size].tolist()
        for places in alike([shapes[index] for index in order])
        for start in range(0, len(places), size)
    ]
    return [order[place] for block in sorted(blocks) for place in block]


def stratified_levels(size: int, levels: int, rng: np.random.Generator, density: str = "uniform") -> Tensor:
    """(size,) noise levels, one in each of `size` equally likely bands: less variance than independent draws.

    Kingma et al., arXiv 2107.00630, appendix I.1. `logit-normal` is arXiv 2403.03206, eq. 19, with mean 0 and
    deviation 1: the middle levels are drawn more often.
    """
    bands = (np.arange(size) + rng.random()) / size
    if density == "logit-normal":
        bands = torch.special.expit(torch.special.ndtri(torch.from_numpy(bands))).numpy()
    return torch.from_numpy(rng.permutation(np.minimum((bands * levels).astype(np.int64), levels - 1)))
