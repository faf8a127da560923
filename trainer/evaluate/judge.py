"""An embedder's view of pictures: who is in them, or that nobody is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.errors import PhotosError
from trainer.faces.align import crop_square
from trainer.faces.base import Detector, Embedder, cosine_matrix
from trainer.pictures import UnusablePicture, open_picture
from trainer.records import RGB, Box, Face, Floats, Framed

PORTRAIT_PX = 160


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


@dataclass(frozen=True, slots=True)
class Album:
    """Real photos in an embedder's eyes, by name.

    Attributes:
        vectors: a (d,) float32 unit vector each.
        portraits: a (PORTRAIT_PX, PORTRAIT_PX, 3) uint8 picture of the face, framed alike.
    """

    vectors: dict[str, Floats]
    portraits: dict[str, RGB]

    def of(self, names: Sequence[str]) -> Floats:
        """(len(names), d) vectors."""
        width = max((len(vector) for vector in self.vectors.values()), default=0)
        return np.array([self.vectors[name] for name in names], np.float32).reshape(len(names), width)

    def framed(self, names: Sequence[str]) -> list[RGB]:
        """Their portraits."""
        return [self.portraits[name] for name in names]


def look_at_album(
    files: Mapping[str, Path], framed: Mapping[str, Framed], max_pixels: int, detector: Detector, embedder: Embedder
) -> Album:
    """`look_at_albums` for one embedder."""
    return look_at_albums(files, framed, max_pixels, detector, [embedder])[0]


def look_at_albums(
    files: Mapping[str, Path],
    framed: Mapping[str, Framed],
    max_pixels: int,
    detector: Detector,
    embedders: Sequence[Embedder],
) -> list[Album]:
    """Embed the person of each real photo, by name, and frame them as `prepare` did, an album for each embedder.

    Each photo is opened once, and one is in memory at a time. Raises PhotosError for a photo that changed or went since
    it was checked.
    """
    albums = [Album({}, {}) for _ in embedders]
    for name, path in files.items():
        try:
            rgb_u8 = open_picture(path, max_pixels).rgb_u8
        except (UnusablePicture, OSError) as error:
            raise _changed(path, str(error)) from None
        where = framed[name]
        face = max(detector.detect(rgb_u8), key=lambda face: overlap(face.box, where.box), default=None)
        if face is None or not overlap(face.box, where.box):
            raise _changed(path, "the person's face is not found in it")
        portrait = crop_square(rgb_u8, *where.frame, PORTRAIT_PX)
        for album, embedder in zip(albums, embedders, strict=True):
            album.vectors[name] = embedder.embed(rgb_u8, face)
            album.portraits[name] = portrait
    return albums


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes share over the area that they cover, 0 to 1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (both - shared) if shared else 0.0


def likeness(
    pictures: Sequence[RGB],
    files: Mapping[str, Path],
    framed: Mapping[str, Framed],
    max_pixels: int,
    detector: Detector,
    embedder: Embedder,
) -> list[float]:
    """Mean cosine (-1 to 1) of each picture to these real photos; a picture without a face has 0."""
    photos = look_at_album(files, framed, max_pixels, detector, embedder).of(list(files))
    found: list[float] = look(pictures, detector, embedder).cosines(photos).mean(1).tolist()
    return found


def everyone(pictures: Iterable[RGB], detector: Detector, embedder: Embedder) -> list[Floats]:
    """The (faces, d) float32 unit vectors, (0, 0) without any, of all faces in each RGB picture."""
    found = []
    for rgb_u8 in pictures:
        vectors = [embedder.embed(rgb_u8, face) for face in detector.detect(rgb_u8)]
        found.append(np.array(vectors, np.float32) if vectors else np.zeros((0, 0), np.float32))
    return found


def _changed(path: Path, reason: str) -> PhotosError:
    return PhotosError(f"{path}: could be used when it was checked, and now not: {reason}", "put it back")
