"""An embedder's view of pictures: who is in them, or that nobody is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.errors import PhotosError
from trainer.faces.base import Detector, Embedder, cosine_matrix
from trainer.pictures import UnusablePicture, open_picture
from trainer.records import RGB, Face, Floats


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in some pictures.

    Attributes:
        vectors: (n, d) float32 unit vectors, zero where no face was found.
        faces: the largest face of each picture, or None.
    """

    vectors: Floats
    faces: tuple[Face | None, ...]

    @property
    def detected(self) -> Floats:
        """(n,) 1 where a face was found, else 0."""
        return np.array([face is not None for face in self.faces], np.float32)

    def cosines(self, others: Floats) -> Floats:
        """(n, m) cosines to (m, d) unit vectors; a picture without a face scores 0."""
        if not any(self.faces):
            return np.zeros((len(self.faces), len(others)), np.float32)
        return cosine_matrix(self.vectors, others)


def look(pictures: Iterable[RGB], detector: Detector, embedder: Embedder) -> Seen:
    """Find and embed the largest face of each (height, width, 3) uint8 picture."""
    vectors, faces = [], []
    width = 0
    for rgb_u8 in pictures:
        found = max(detector.detect(rgb_u8), key=lambda face: face.width, default=None)
        faces.append(found)
        vectors.append(None if found is None else embedder.embed(rgb_u8, found))
        width = width if found is None else len(vectors[-1])  # type: ignore[arg-type]
    rows = [np.zeros(width, np.float32) if vector is None else vector for vector in vectors]
    return Seen(np.array(rows, np.float32).reshape(len(rows), width), tuple(faces))


def read_photos(files: Sequence[Path], max_pixels: int) -> list[RGB]:
    """Decode real photos again. Raises PhotosError for one that changed or went since it was checked."""
    pictures = []
    for path in files:
        try:
            pictures.append(open_picture(path, max_pixels).rgb_u8)
        except (UnusablePicture, OSError) as error:
            raise PhotosError(
                f"{path}: could be read when it was checked, and now not: {error}", "put it back"
            ) from None
    return pictures
