"""Was the seal kept? The training samples are looked through for the photos that should never have been there."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from trainer.evaluate.judge import Seen
from trainer.faces.align import crop_square, portrait_square
from trainer.records import RGB, Face, Floats

# No two different shots of eleven people, 24 photos each, reached both; the same shot recompressed and shrunk, and even
# shifted by two pixels, reached 0.91 and 0.82.
SAME_PIXELS, SAME_FACE = 0.9, 0.8
SIDE_PX = 32


def sealed_among(samples: Sequence[RGB], sample_faces: Seen, portraits: Sequence[RGB], vectors: Floats) -> list[int]:
    """Indices of the photos that a sample shows: the same face by the embedder, and the same picture by its pixels.

    Samples and the photos' portraits are framed alike, (side, side, 3) uint8, or the portrait is cut out of a sample of
    another shape; `vectors` are the photos' (n, d).
    """
    if not samples or not portraits:
        return []
    squares = [portrait_of(sample, face) for sample, face in zip(samples, sample_faces.faces, strict=True)]
    pixels = thumbnails(portraits) @ thumbnails(squares).T / SIDE_PX**2
    same = (pixels >= SAME_PIXELS) & (sample_faces.cosines(vectors).T >= SAME_FACE)
    return [int(index) for index in np.flatnonzero(same.any(1))]


def portrait_of(sample: RGB, face: Face | None) -> RGB:
    """A sample of another shape in the base's framing of its face; a square, or one without a face, as it is."""
    if face is None or sample.shape[0] == sample.shape[1]:
        return sample
    return crop_square(sample, *portrait_square(face.landmarks), min(sample.shape[:2]))


def thumbnails(pictures: Sequence[RGB]) -> Floats:
    """(n, 1024) gray pixels of each picture at 32 x 32, of mean 0 and variance 1; a flat picture is all zero."""
    rows = []
    for picture in pictures:
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(gray, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
        rows.append((small - small.mean()) / max(float(small.std()), 1e-6))
    return np.array(rows, np.float32)
