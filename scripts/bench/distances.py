"""How far made pictures are from real ones, on the vectors of any embedder: pure measures, no pictures in here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Floats = npt.NDArray[np.floating]
NEIGHBOURS = 3  # as in arXiv 1904.06991, section 3


def frechet(a: Floats, b: Floats) -> float:
    """Squared Fréchet distance of the Gaussians through the rows of (n, d) `a` and (m, d) `b`; 0 for equal ones.

    Heusel et al. 2017 (arXiv 1706.08500), eq. 6. The trace of the root of the covariances' product is the nuclear norm
    of the centred rows' product, which also holds where there are fewer rows than dimensions. With few rows it is too
    large: compare figures of equal n and m only. Raises ValueError for fewer than two rows.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError("a covariance needs two rows")
    left, right = (_centred(rows.astype(np.float64)) for rows in (a, b))
    apart = np.square(a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)).sum()
    return float(apart + np.square(left).sum() + np.square(right).sum() - 2 * np.linalg.norm(left @ right.T, "nuc"))


def precision_recall(real: Floats, made: Floats, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Shares of made rows inside the real rows' manifold, and of real rows inside the made ones' (arXiv 1904.06991).

    A row is inside where it lies no farther from some row of the manifold than that row's own k-th nearest (eq. 1 and
    2). Raises ValueError for `neighbours` rows or fewer.
    """
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(f"more than {neighbours} rows are needed on both sides")
    return _inside(made, real, neighbours), _inside(real, made, neighbours)


@dataclass(frozen=True, slots=True)
class Pool:
    """Real faces that samples may resemble.

    Attributes:
        vectors: (n, d) unit vectors.
        people: (n,) who is shown; a number of its own for each picture whose person is not known.
        kinds: (n,) where it comes from, so that pools are drawn with equal shares.
    """

    vectors: Floats
    people: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.str_]

    def rows(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Pool:
        """A part of it."""
        return Pool(self.vectors[chosen], self.people[chosen], self.kinds[chosen])


def one_a_person(pool: Pool, rng: np.random.Generator) -> Pool:
    """One picture of each person, drawn at random, in random order."""
    order = rng.permutation(len(pool.people))
    _, first = np.unique(pool.people[order], return_index=True)
    return pool.rows(order[rng.permutation(first)])


def like(pool: Pool, other: Pool, rng: np.random.Generator) -> Pool:
    """As many people of each kind as `other` has rows of it, one picture each. Raises ValueError for too few people."""
    people = one_a_person(pool, rng)
    chosen = []
    for kind, count in zip(*np.unique(other.kinds, return_counts=True), strict=True):
        rows = np.flatnonzero(people.kinds == kind)
        if len(rows) < count:
            raise ValueError(f"{len(rows)} people of {kind}, {count} needed")
        chosen.append(rows[:count])
    return people.rows(np.concatenate(chosen))


@dataclass(frozen=True, slots=True)
class Nearness:
    """How close samples come to faces that were trained on and to as many that were not.

    Attributes:
        held_out, trained: mean over samples of the highest cosine to a face of the pool.
        trained_interval: 2.5% to 97.5% of that mean over the training pools drawn. Without memorisation the held-out
            pool is one more draw.
        difference_interval: 2.5% to 97.5% of trained - held_out, over pools and resampled samples.
        held_out_p99, trained_p99: 99th percentile over samples instead of the mean.
        above: share of training pools that come at most as close as the held-out one.
    """

    held_out: float
    trained: float
    trained_interval: tuple[float, float]
    difference_interval: tuple[float, float]
    held_out_p99: float
    trained_p99: float
    above: float


def nearness(samples: Floats, training: Pool, held_out: Pool, draws: int, rng: np.random.Generator) -> Nearness:
    """Nearest cosines of (n, d) unit vectors to `held_out` and to `draws` pools of `training` that are like it."""
    outside = (samples @ held_out.vectors.T).max(1)
    means, differences, tails = [], [], []
    for _ in range(draws):
        inside = (samples @ like(training, held_out, rng).vectors.T).max(1)
        again = rng.integers(len(samples), size=len(samples))
        means.append(inside.mean())
        tails.append(np.quantile(inside, 0.99))
        differences.append((inside - outside)[again].mean())
    return Nearness(
        held_out=float(outside.mean()),
        trained=float(np.mean(means)),
        trained_interval=interval(means),
        difference_interval=interval(differences),
        held_out_p99=float(np.quantile(outside, 0.99)),
        trained_p99=float(np.mean(tails)),
        above=float(np.mean(np.array(means) <= outside.mean())),
    )


def interval(values: list[float]) -> tuple[float, float]:
    """2.5% and 97.5% of the values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _centred(rows: Floats) -> Floats:
    """Rows whose product with themselves is their covariance."""
    centred: Floats = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return centred


def _inside(rows: Floats, manifold: Floats, neighbours: int) -> float:
    radii = np.partition(cdist(manifold, manifold), neighbours, axis=1)[:, neighbours]  # the 0th is the row itself
    return float((cdist(rows, manifold) <= radii).any(1).mean())
