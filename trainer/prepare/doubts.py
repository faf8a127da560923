"""When an album does not say clearly who the person is: said to the user, not guessed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.faces.base import cosine_matrix
from trainer.prepare.identity import LOOK_ALIKE
from trainer.records import Floats

Mask = npt.NDArray[np.bool_]

# How much more alike photos of one half are than photos of different halves, by the dlib gate: chosen with
# scripts/bench/strangers.py, which finds it in 1% of albums of one person and 90% of those of two who look alike.
TWO_KINDS = 0.19
MIN_KIND = 3  # photos in the smaller half
RIVAL_SHARE = 0.5  # of the person's photos: another person shown as often as that may be the one who is meant
TWO_KINDS_SAID = "the photos fall into two kinds"
TWINS = 2  # photos with two faces like the person from which a twin is more likely than a mirror or a poster
YEAR_S = 365.25 * 24 * 60 * 60
NARROW_GAP = 0.08  # cosines; photos on both sides of so narrow a gap could go either way


def doubts(
    kept: Sequence[Floats],
    strangers: Sequence[Floats],
    gap: float,
    same_person: float,
    *,
    seconds: Sequence[int | None] = (),
    beside: int = 0,
    referred: bool = False,
) -> list[str]:
    """What is unclear, in words; empty where the album is clear.

    Args:
        kept: (d,) unit vectors of the person's photos.
        strangers: of the photos rejected as other people.
        gap: width of the stretch of likeness that parts them.
        seconds: when each of `kept` was taken, since the epoch; None where nobody knows.
        beside: photos with several faces that look like the person.
        referred: whether a reference photo says who the person is.
    """
    said = []
    contrast, first = halves(kept)
    sizes = _sizes(first)
    if contrast > TWO_KINDS and min(sizes) >= MIN_KIND:
        said.append(f"{TWO_KINDS_SAID} ({sizes[0]} and {sizes[1]}): {_why_two(first, seconds)}")
    if beside >= TWINS:
        said.append(
            f"{beside} photos show several faces that look like the person: if there is a twin or a close relative,"
            " photos of them alone are not told apart; look at sheet.png"
        )
    rivals = largest_crowd(strangers, same_person + LOOK_ALIKE)
    if not referred and rivals >= max(MIN_KIND, RIVAL_SHARE * len(kept)):
        said.append(
            f"{rivals} photos of one other person were rejected: if that is who is meant, pass --reference PHOTO"
        )
    if gap < NARROW_GAP:
        said.append("some photos are neither clearly the person nor clearly not: see likeness in photos.jsonl")
    return said


def two_kinds(vectors: Sequence[Floats]) -> tuple[float, tuple[int, int]]:
    """The contrast of `halves`, and their sizes, largest first."""
    contrast, first = halves(vectors)
    return contrast, _sizes(first)


def _why_two(first: Mask, seconds: Sequence[int | None]) -> str:
    """What may be behind two kinds of photos, and what to do: the dates may tell."""
    years = years_between(first, seconds)
    if years is None:
        return "two people who look alike, or one person at very different ages? If it is two, take one out"
    return (
        f"one was taken {int(years)} years or more before the other, so it may be one person at different ages. An"
        " adapter learns one look: keep the photos of one age"
    )


def years_between(first: Mask, seconds: Sequence[int | None]) -> float | None:
    """Years from the last photo of the earlier half to the first of the later one.

    None where a date is unknown, the halves overlap in time, or less than a year lies between them.
    """
    dated = np.array([np.nan if second is None else second for second in seconds], np.float64)
    if len(dated) != len(first) or np.isnan(dated).any():
        return None
    one, other = dated[first], dated[~first]
    years = float(max(other.min() - one.max(), one.min() - other.max())) / YEAR_S
    return years if years >= 1 else None


def halves(vectors: Sequence[Floats]) -> tuple[float, Mask]:
    """Mean cosine within the two halves of (d,) unit vectors minus that between them, and which are in the first.

    The halves are those of 2-means on the sphere, begun at the first principal component.
    """
    x = np.asarray(vectors, np.float32)
    whole = np.ones(len(x), np.bool_)
    if len(x) < 2 * MIN_KIND:
        return 0.0, whole
    _, _, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    first = (x - x.mean(0)) @ axes[0] > 0
    for _ in range(10):
        if first.all() or not first.any():
            return 0.0, whole
        nearer = x @ _direction(x[first]) > x @ _direction(x[~first])
        if (nearer == first).all():
            break
        first = nearer
    alike = cosine_matrix(x, x)
    pairs = ~np.eye(len(x), dtype=bool)
    same = first[:, None] == first[None]
    if first.all() or not first.any() or not (same & pairs).any():
        return 0.0, first
    return float(alike[same & pairs].mean() - alike[~same].mean()), first


def _sizes(first: Mask) -> tuple[int, int]:
    count = int(first.sum())
    return max(count, len(first) - count), min(count, len(first) - count)


def largest_crowd(vectors: Sequence[Floats], look_alike: float) -> int:
    """How many of these (d,) unit vectors look like one of them, that one counted."""
    alike = cosine_matrix(vectors, vectors)
    return int((alike >= look_alike).sum(1).max()) if len(alike) else 0


def _direction(vectors: Floats) -> Floats:
    mean: Floats = vectors.mean(0)
    return mean / np.float32(np.linalg.norm(mean))
