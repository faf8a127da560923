"""How much of a face something hides: dark glasses, a mask of cloth; read off the colours of the face alone."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from trainer.records import RGB, Floats

Mask = npt.NDArray[np.bool_]
Zone = tuple[int, int, int, int]  # left, top, right, bottom in the 112 px ArcFace crop
# Both eyes with the skin around them; nose, mouth and the cheeks beside them. Forehead, jaw and chin are left out: hair
# and beards hide them on most people.
EYES, LOWER = (22, 42, 90, 62), (30, 64, 82, 100)
FACE: Zone = (20, 24, 92, 104)
# Skin of all tones in white light, in YCrCb: Chai and Ngan, IEEE TCSVT 9(4), 1999, section III.
CR, CB = (133, 173), (77, 127)
LEAST_SKIN = 0.08  # of the face; where less has such a colour (gray photos, coloured light) the median face is the skin
# Lightness against the skin's below and above which something else is seen, and the distance of the colour in CIELAB
# against the skin's chroma; chosen on what scripts/bench/covered.py paints over 164 faces.
DARK, BRIGHT, OTHER = 0.5, 1.6, 0.6
LEAST_OTHER = 10.0  # CIELAB units; a smaller distance is the camera's


def occlusion(rgb_112: RGB, inside: Mask) -> float:
    """0 to 1: of the eyes' surroundings and of nose and mouth, the larger share that has not the skin's colour.

    Skin-coloured things, such as hands, and gray cloth in a gray photo are not seen.

    Args:
        rgb_112: (112, 112, 3) uint8 ArcFace crop.
        inside: (112, 112), which of its pixels lie inside the photo.
    """
    soft = cv2.GaussianBlur(rgb_112, (0, 0), 1.5).astype(np.uint8)
    lab = lab_of(soft)
    skin = _skin(soft, lab, inside)
    light = np.maximum(lab[..., 0], 1) / max(float(skin[0]), 1.0)
    expected = skin[1:] * np.clip(light, 0.3, 1.2)[..., None]  # in the shade a colour is nearer to gray
    astray = np.linalg.norm(lab[..., 1:] - expected, axis=2)
    other = astray > max(LEAST_OTHER, OTHER * float(np.linalg.norm(skin[1:])))
    hidden = (light < DARK) | (light > BRIGHT) | other
    return max(_share(hidden, inside, zone) for zone in (EYES, LOWER))


def lab_of(rgb_u8: RGB) -> Floats:
    """(height, width, 3) float32 CIELAB: lightness 0 to 255, a and b around 0."""
    lab: Floats = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2LAB).astype(np.float32) - np.array([0, 128, 128], np.float32)
    return lab


def part(zone: Zone) -> tuple[slice, slice]:
    """Rows and columns of a zone."""
    left, top, right, bottom = zone
    return slice(top, bottom), slice(left, right)


def _skin(soft: RGB, lab: Floats, inside: Mask) -> Floats:
    """(3,) CIELAB of this face's own skin."""
    face = np.zeros_like(inside)
    face[part(FACE)] = inside[part(FACE)]
    if not face.any():
        face = np.ones_like(inside)
    _, cr, cb = (soft_channel for soft_channel in np.moveaxis(cv2.cvtColor(soft, cv2.COLOR_RGB2YCrCb), 2, 0))
    alike = face & (cr >= CR[0]) & (cr <= CR[1]) & (cb >= CB[0]) & (cb <= CB[1])
    median: Floats = np.median(lab[alike if alike.sum() >= LEAST_SKIN * face.sum() else face], 0)
    return median


def _share(hidden: Mask, inside: Mask, zone: Zone) -> float:
    seen = inside[part(zone)]
    return float(hidden[part(zone)][seen].mean()) if seen.any() else 0.0
