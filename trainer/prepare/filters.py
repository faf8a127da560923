"""What filters leave in a face: colours too strong or of no skin, few levels, skin without texture."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from trainer.prepare.cover import FACE, Mask, Zone, lab_of, part
from trainer.records import RGB, Floats

EYES: tuple[Zone, ...] = ((28, 44, 50, 60), (62, 44, 84, 60))
SKIN: tuple[Zone, ...] = ((24, 66, 38, 84), (74, 66, 88, 84), (46, 28, 66, 40))  # cheeks and forehead
SKIN_HUE_DEG = 50.0  # of CIELAB's a and b; faces in white light lie within 10 degrees of it
LEAST_CHROMA = 8.0  # below, a picture is gray and has no hue
FEW = 16  # gray levels; a face of less contrast has too few to count
DETAIL = 2.0  # px of the 112 px crop; coarser is no texture
LEAST_PX = 20


class Traces(NamedTuple):
    """Numbers of one face that filters change.

    Attributes:
        texture: fine detail of cheeks and forehead against that of the eyes; smoothing lowers it.
        chroma: distance from gray in CIELAB, median of the face; 0 for gray photos.
        tint_deg: 0 to 180, how far the face's hue is from that of skin in white light; 0 for gray photos.
        levels: 0 to 1, share of the gray levels between the face's 5th and 95th percentile that are in use: the
            exponential of their entropy.
    """

    texture: float
    chroma: float
    tint_deg: float
    levels: float


def traces(rgb_112: RGB, gray_112: RGB, inside: Mask) -> Traces:
    """Of the (112, 112, 3) uint8 ArcFace crop, its gray, and which pixels lie inside the photo."""
    seen = inside[part(FACE)]
    if not seen.any():
        seen = np.ones_like(seen)
    a, b = (float(v) for v in np.median(lab_of(rgb_112)[part(FACE)][seen], 0)[1:])
    chroma = float(np.hypot(a, b))
    off = abs((np.degrees(np.arctan2(b, a)) - SKIN_HUE_DEG + 180) % 360 - 180) if chroma >= LEAST_CHROMA else 0.0
    return Traces(_texture(gray_112, inside), chroma, float(off), _levels(gray_112[part(FACE)][seen]))


def _texture(gray_112: RGB, inside: Mask) -> float:
    fine = gray_112.astype(np.float32) - cv2.GaussianBlur(gray_112.astype(np.float32), (0, 0), DETAIL)
    skin, eyes = _detail(fine, inside, SKIN), _detail(fine, inside, EYES)
    return 1.0 if skin is None or eyes is None else skin / max(eyes, 1e-3)


def _detail(fine: Floats, inside: Mask, zones: tuple[Zone, ...]) -> float | None:
    """Mean standard deviation within the zones that lie inside the photo; None where none does."""
    found = [fine[part(zone)][inside[part(zone)]] for zone in zones]
    spread = [float(values.std()) for values in found if values.size >= LEAST_PX]
    return float(np.mean(spread)) if spread else None


def _levels(gray: RGB) -> float:
    low, high = (int(v) for v in np.quantile(gray, [0.05, 0.95]))
    counts = np.bincount(gray, minlength=256)[low : high + 1]
    if len(counts) < FEW:
        return 1.0
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()) / len(counts))
