"""Where in a sample the loss should look closer: the face's outline or the person, else the face's box."""

from __future__ import annotations

import numpy as np

from trainer.faces.masks import Masker
from trainer.records import RGB, Box, Face

BOX, FACE, PERSON = "box", "face", "person"
LEAST = 0.5  # of the face's box; a person's mask that leaves more of the face out has found nobody


def mask_of(kind: str, masker: Masker, crop: RGB, face: Face | None, box: Box) -> tuple[RGB, str]:
    """(height, width) uint8, 255 inside, and what it shows: the `kind` asked for, or `box` where that was not found.

    `face` is the subject's face in the crop, `box` its box in pixels or where one is assumed.
    """
    inside = box_mask(crop, box)
    mask = None
    if kind == PERSON:
        mask = masker.person(crop)
        if mask[inside > 0].mean() < LEAST * 255:
            mask = None
    elif kind == FACE and face is not None:
        mask = masker.face(crop, face)
    return (inside, BOX) if mask is None else (mask, kind)


def box_mask(crop: RGB, box: Box) -> RGB:
    """The box as a mask of the crop's size, at least one pixel of it."""
    height, width = crop.shape[:2]
    left, top = (int(np.clip(round(v), 0, size - 1)) for v, size in zip(box[:2], (width, height), strict=True))
    right, bottom = (int(np.clip(round(v), 1, size)) for v, size in zip(box[2:], (width, height), strict=True))
    mask = np.zeros((height, width), np.uint8)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = 255
    return mask
