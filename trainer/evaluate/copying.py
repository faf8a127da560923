"""Does the adapter remember photos instead of a person?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from trainer.records import Floats


class Compared(Protocol):
    """Pictures that can be compared with photos."""

    def cosines(self, others: Floats) -> Floats:
        """(n, m) cosines to (m, d) unit vectors."""
        ...


def nearest(cosines: Floats) -> float:
    """Mean over (n, photos) cosines of each picture's nearest photo."""
    return float(cosines.max(1).mean())


def copying_excess(
    pictures: Compared, fitted: Floats, sealed: Floats, names: Sequence[str], groups: Sequence[Sequence[str]]
) -> float:
    """How much nearer the pictures are to the fit photos than a further real photo of the person would be.

    The difference between each picture's nearest of the (n, d) fit photos, called `names`, and its nearest of the
    (m, d) sealed ones, less the same difference for the real fit photos, each against the others outside its own
    group. The subtraction takes away what more photos on one side bring by chance. About 0 for a person learned.
    """
    found = nearest(pictures.cosines(fitted)) - nearest(pictures.cosines(sealed))
    return found - real_difference(fitted, sealed, names, groups)


def real_difference(fitted: Floats, sealed: Floats, names: Sequence[str], groups: Sequence[Sequence[str]]) -> float:
    """What a real photo shows: its nearest other fit photo, less its nearest sealed one; 0 where there is no other."""
    group_of = {name: index for index, group in enumerate(groups) for name in group}
    other = np.array([[group_of[a] != group_of[b] for b in names] for a in names])
    has_other = other.any(1)
    if not has_other.any():
        return 0.0
    to_fit = np.where(other, fitted @ fitted.T, -1.0)[has_other]
    return nearest(to_fit) - nearest((fitted @ sealed.T)[has_other])


def any_excess(
    pictures: Compared, photos: Floats, names: Sequence[str], groups: Sequence[Sequence[str]]
) -> float | None:
    """How much nearer the pictures are to any of the (n, d) photos than those are to their nearest other shot.

    Needs no word on which photos were fitted. Well below 0 for a person learned, some tenths for copies of any photo,
    sealed ones too. None where all photos are one shot.
    """
    group_of = {name: index for index, group in enumerate(groups) for name in group}
    other = np.array([[group_of[a] != group_of[b] for b in names] for a in names])
    has_other = other.any(1)
    if not has_other.any():
        return None
    return nearest(pictures.cosines(photos)) - nearest(np.where(other, photos @ photos.T, -1.0)[has_other])
