"""Is there fine detail in the faces, or only edges drawn with a strong pencil?"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from trainer.records import RGB, Face

MIN_SIDE_PX = 32  # a narrower face has too few pixels for these octaves
COARSE, FINE, FINEST = 1 / 16, 1 / 8, 1 / 4  # cycles a pixel


def detail(pictures: Iterable[RGB], faces: Iterable[Face | None]) -> float | None:
    """Mean `face_detail` of the pictures whose face is large enough; None without any."""
    found = [face_detail(picture, face) for picture, face in zip(pictures, faces, strict=True) if face is not None]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def face_detail(rgb_u8: RGB, face: Face) -> float | None:
    """log2 of the spectral energy from 1/8 to 1/4 cycles a pixel over that from 1/16 to 1/8, in the gray face box.

    On the picture's own pixels, under a Hann window (Harris, Proc. IEEE 66, 1978). Photos have about as much energy in
    every octave (Field, JOSA A 4, 1987); a blur takes more of the finer one, and sharpening, which raises both, does
    not bring it back. The octave above would tell little: 8-bit rounding fills it. None below `MIN_SIDE_PX`.
    """
    left, top, right, bottom = (max(0, round(value)) for value in face.box)
    gray = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY)[top:bottom, left:right].astype(np.float64)
    if min(gray.shape) < MIN_SIDE_PX:
        return None
    window = np.outer(np.hanning(gray.shape[0]), np.hanning(gray.shape[1]))
    energy = np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(gray.shape[0])[:, None], np.fft.fftfreq(gray.shape[1])[None])
    fine = energy[(frequency >= FINE) & (frequency < FINEST)].sum()
    coarse = energy[(frequency >= COARSE) & (frequency < FINE)].sum()
    return float(np.log2((fine + 1e-6) / (coarse + 1e-6)))
