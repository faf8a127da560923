"""Of photos that are nearly one photo the best goes on, where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainer.records import Photo, Rejection

BURST = "burst"
GOOD_JPEG = 95.0  # a quality from which recompression is not seen
HINT = "nothing is wrong with it; prepare.keep_burst=all uses every photo of a burst"


def best_of_bursts(
    photos: Sequence[Photo], groups: Sequence[Sequence[str]], size_px: int
) -> tuple[list[Photo], dict[str, str]]:
    """The photos without the lesser ones of each group, in order, and of each lesser one the name of the one kept.

    Args:
        groups: names, as `trainer.prepare.duplicates.near_duplicate_groups` gives them.
        size_px: side of a sample, beyond which more pixels are no gain.
    """
    named = {photo.name: photo for photo in photos}
    instead: dict[str, str] = {}
    for group in groups:
        best, *lesser = ranked([named[name] for name in group], size_px)
        instead |= {photo.name: best.name for photo in lesser}
    return [photo for photo in photos if photo.name not in instead], instead


def ranked(group: Sequence[Photo], size_px: int) -> list[Photo]:
    """The photos of one burst, the best first; of equal ones the hash decides, so that names do not."""
    sharpest = max(float(photo.measured["sharpness"] or 0) for photo in group)
    return sorted(group, key=lambda photo: (-merit(photo, sharpest, size_px), photo.sha256, photo.name))


def merit(photo: Photo, sharpest: float, size_px: int) -> float:
    """0 to 1: the product of what the photo has of each thing that is measured, so that the worst of them decides.

    Pixels of the framed face against those of a sample; sharpness against the burst's `sharpest` (as the fourth root:
    the measure is a variance, and brighter or noisier copies have more of it too); the share of the face that is not
    black, burnt out, hidden or beyond the border, and of the frame that was not filled; how far the head faces the
    camera (cosines of its turn); the JPEG's quality.
    """
    found: Mapping[str, float | None] = photo.measured
    number = {name: float(value) for name, value in found.items() if value is not None}
    parts = (
        min(1.0, photo.frame[2] / size_px),
        (number["sharpness"] / sharpest) ** 0.25 if sharpest > 0 else 1.0,
        1 - max(number["shadow"], number["highlight"]),
        1 - number["cut"],
        1 - number["occluded"],
        1 - number["filled"],
        np.cos(np.radians(number["yaw_deg"])) * np.cos(np.radians(number["pitch_deg"])),
        min(1.0, number.get("jpeg_quality", GOOD_JPEG) / GOOD_JPEG),
    )
    return float(np.prod(parts))


def refused_as_lesser(instead: Mapping[str, str]) -> list[Rejection]:
    """One rejection for each photo of a burst that is not the best."""
    reason = 'shows nearly the same as "{}", which is the better photo by what is measured'
    return [Rejection(name, BURST, reason.format(kept), HINT) for name, kept in instead.items()]
