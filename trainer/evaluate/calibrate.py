"""Ceiling, floors, threshold and interval: what turns a cosine into a statement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from trainer.records import Floats

STRANGERS = Path(__file__).resolve().parent / "strangers.safetensors"


def strangers(engine: str) -> Floats | None:
    """(n, d) unit vectors of people who do not exist, by the embedder of that engine; None where none are shipped."""
    shipped = load_file(STRANGERS)
    if engine not in shipped:
        return None
    table: Floats = shipped[engine].astype(np.float32)
    unit: Floats = table / np.linalg.norm(table, axis=1, keepdims=True)
    return unit


def real_ceiling(
    cosines: Floats, names: Sequence[str], others: Sequence[str], groups: Sequence[Sequence[str]]
) -> float:
    """Mean of (len(names), len(others)) cosines between different shots, never within a group of near-duplicates."""
    group_of = {name: index for index, group in enumerate(groups) for name in group}
    kept = np.array([[group_of[a] != group_of[b] for b in others] for a in names])
    return float(cosines[kept].mean())


def of_ceiling(mean: float, floor: float, ceiling: float) -> float | None:
    """(mean - floor) / (ceiling - floor); None where the ceiling is no higher than the floor."""
    return (mean - floor) / (ceiling - floor) if ceiling - floor > 1e-6 else None


def threshold_at(cosines: Floats, false_accept_rate: float) -> float:
    """The lowest score that no more than this share of strangers reaches; (n,) are their mean cosines to the person."""
    falling = np.sort(cosines.astype(np.float32))[::-1]
    first_refused = falling[int(false_accept_rate * len(falling))]
    return float(np.nextafter(first_refused, np.float32(np.inf)))


def bootstrap_interval(cosines: Floats, rounds: int, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of (prompts, seeds, photos) cosines, resampling all three axes."""
    return interval95(bootstrap_means(cosines, rounds, seed))


def bootstrap_means(cosines: Floats, rounds: int, seed: int = 0) -> Floats:
    """(rounds,) means of (prompts, seeds, photos) cosines, each axis drawn anew with replacement.

    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    means = np.empty(rounds, np.float32)
    for index, drawn in enumerate(_draws(cosines.shape, rounds, seed)):
        means[index] = cosines[drawn].mean()
    return means


@lru_cache(maxsize=1)
def _draws(shape: tuple[int, ...], rounds: int, seed: int) -> list[tuple[Any, ...]]:
    """What each round picks along each axis; kept for the next prompt, which has as many seeds and photos."""
    rng = np.random.default_rng(seed)
    return [np.ix_(*(rng.integers(n, size=n) for n in shape)) for _ in range(rounds)]


def interval95(values: Floats) -> tuple[float, float]:
    """The range that leaves 2.5% of the values out on either side."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
