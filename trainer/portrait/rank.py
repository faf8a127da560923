"""Which of the pictures look most like the person, and which may be copies of a photo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.records import RGB, Floats


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the person's photos one picture is, in the gate's eyes.

    Attributes:
        cosine: mean to the photos that were fitted, -1 to 1; 0 without a face.
        share: where that lies between strangers, 0, and the photos among themselves, 1; None where it cannot be told.
        has_face: whether a face was found.
        is_copy: whether it is nearer to one photo than any two of those photos are to each other.
    """

    cosine: float
    share: float | None
    has_face: bool
    is_copy: bool


Ranker = Callable[[Iterable[RGB]], list[Likeness]]


def likeness_of(vectors: Floats, faces: Sequence[bool], photos: Floats, strangers: Floats | None) -> list[Likeness]:
    """The `Likeness` of pictures by their (n, d) unit vectors, zero where `faces` says that there is none.

    `photos` are (m, d) unit vectors of the photos, `strangers` (k, d) of other people. The photos' own level is the
    median of their cosines: two of them may be crops of one picture.
    """
    cosines = vectors @ photos.T if any(faces) else np.zeros((len(vectors), len(photos)), np.float32)
    among = (photos @ photos.T)[~np.eye(len(photos), dtype=bool)].reshape(len(photos), -1)
    ceiling = float(np.median(among)) if among.size else None
    nearest = float(among.max()) if among.size else 1.0
    floor = None if strangers is None else float((strangers @ photos.T).mean())
    return [
        Likeness(float(row.mean()), _share(float(row.mean()), floor, ceiling), found, bool(row.max() > nearest))
        for row, found in zip(cosines, faces, strict=True)
    ]


def _share(cosine: float, floor: float | None, ceiling: float | None) -> float | None:
    if floor is None or ceiling is None or ceiling - floor < 1e-6:
        return None
    return (cosine - floor) / (ceiling - floor)


def ranked(found: Sequence[Likeness]) -> list[int]:
    """Indices from the best on: faces before none, possible copies after the others, then by the cosine."""
    return sorted(range(len(found)), key=lambda i: (not found[i].has_face, found[i].is_copy, -found[i].cosine))


def best(found: Sequence[Likeness], prompts: Sequence[str], count: int) -> list[int]:
    """Indices of `count` of the pictures, the best first: of each prompt its best ones, as many as of any other."""
    order = ranked(found)
    taken: Counter[str] = Counter()
    rounds = {}
    for index in order:
        rounds[index] = taken[prompts[index]]
        taken[prompts[index]] += 1
    kept = sorted(order, key=rounds.__getitem__)[:count]
    return [index for index in order if index in kept]
