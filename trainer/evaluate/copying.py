"""Does the adapter remember photos instead of a person?"""

from __future__ import annotations

import itertools

import numpy as np

from trainer.records import Floats

ROUNDS = 200


def nearest(cosines: Floats) -> float:
    """Mean over (n, photos) cosines of each picture's nearest photo."""
    return float(cosines.max(1).mean())


def copying_excess(to_fit: Floats, to_sealed: Floats, seed: int = 0) -> float:
    """How much nearer the nearest fit photo is than the nearest sealed one.

    More photos have a nearer nearest one by chance alone, so both sides are cut to equally many: all subsets where
    there are few, else 200 random ones. Near 0 for a person learned, well above for photos remembered.
    """
    size = min(to_fit.shape[1], to_sealed.shape[1])
    return _nearest_of(to_fit, size, seed) - _nearest_of(to_sealed, size, seed)


def _nearest_of(cosines: Floats, size: int, seed: int) -> float:
    count = cosines.shape[1]
    if count == size:
        return nearest(cosines)
    subsets = list(itertools.islice(itertools.combinations(range(count), size), ROUNDS + 1))
    if len(subsets) > ROUNDS:
        rng = np.random.default_rng(seed)
        subsets = [tuple(rng.choice(count, size, replace=False)) for _ in range(ROUNDS)]
    return float(np.mean([nearest(cosines[:, list(subset)]) for subset in subsets]))
