"""When an album does not say clearly who the person is: said to the user, not guessed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.faces.base import cosine_matrix
from trainer.prepare.identity import LOOK_ALIKE
from trainer.records import Floats

# How much more alike photos of one half are than photos of different halves, by the dlib gate: chosen with
# scripts/bench/strangers.py, which finds it in 1% of albums of one person and 90% of those of two who look alike.
TWO_KINDS = 0.19
MIN_KIND = 3  # photos in the smaller half
RIVAL_SHARE = 0.5  # of the person's photos: another person shown as often as that may be the one who is meant
NARROW_GAP = 0.08  # cosines; photos on both sides of so narrow a gap could go either way


def doubts(kept: Sequence[Floats], strangers: Sequence[Floats], gap: float, same_person: float) -> list[str]:
    """What is unclear, in words; empty where the album is clear.

    `kept` and `strangers` are (d,) unit vectors of the person's photos and of those rejected as other people; `gap` is
    the width of the stretch of likeness that parts them.
    """
    said = []
    contrast, sizes = two_kinds(kept)
    if contrast > TWO_KINDS and min(sizes) >= MIN_KIND:
        said.append(
            f"the photos fall into two kinds ({sizes[0]} and {sizes[1]}): two people who look alike, or one person at"
            " very different ages? If it is two, take one out"
        )
    rivals = largest_crowd(strangers, same_person + LOOK_ALIKE)
    if rivals >= max(MIN_KIND, RIVAL_SHARE * len(kept)):
        said.append(
            f"{rivals} photos of one other person were rejected: if that is who is meant, pass --reference PHOTO"
        )
    if gap < NARROW_GAP:
        said.append("some photos are neither clearly the person nor clearly not: see likeness in photos.jsonl")
    return said


def two_kinds(vectors: Sequence[Floats]) -> tuple[float, tuple[int, int]]:
    """Mean cosine within the two halves of (d,) unit vectors minus that between them, and their sizes, largest first.

    The halves are those of 2-means on the sphere, begun at the first principal component.
    """
    x = np.asarray(vectors, np.float32)
    if len(x) < 2 * MIN_KIND:
        return 0.0, (len(x), 0)
    _, _, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    first = (x - x.mean(0)) @ axes[0] > 0
    for _ in range(10):
        if first.all() or not first.any():
            return 0.0, (len(x), 0)
        nearer = x @ _direction(x[first]) > x @ _direction(x[~first])
        if (nearer == first).all():
            break
        first = nearer
    alike = cosine_matrix(x, x)
    pairs = ~np.eye(len(x), dtype=bool)
    same = first[:, None] == first[None]
    sizes = sorted((int(first.sum()), int((~first).sum())), reverse=True)
    if sizes[1] == 0 or not (same & pairs).any():
        return 0.0, (sizes[0], sizes[1])
    return float(alike[same & pairs].mean() - alike[~same].mean()), (sizes[0], sizes[1])


def largest_crowd(vectors: Sequence[Floats], look_alike: float) -> int:
    """How many of these (d,) unit vectors look like one of them, that one counted."""
    alike = cosine_matrix(vectors, vectors)
    return int((alike >= look_alike).sum(1).max()) if len(alike) else 0


def _direction(vectors: Floats) -> Floats:
    mean: Floats = vectors.mean(0)
    return mean / np.float32(np.linalg.norm(mean))
