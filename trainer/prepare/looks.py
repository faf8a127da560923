"""Look at a photo once: decode it, find its faces, measure and embed each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.faces.base import Detector, Embedder
from trainer.pictures import open_picture
from trainer.prepare.duplicates import perceptual_hash
from trainer.prepare.quality import Quality, measure
from trainer.records import Face, Floats

MAX_FACES = 12  # of a crowd, the widest


@dataclass(frozen=True, slots=True)
class SeenFace:
    """A face with the gate's (d,) unit vector and its numbers."""

    face: Face
    embedding: Floats
    quality: Quality


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen in one photo.

    Attributes:
        size: (width, height) in pixels of the upright picture as it was looked at; boxes and landmarks refer to it.
        phash: 64-bit perceptual hash, hex.
        second: capture time in seconds since the epoch, where EXIF has it.
        faces: every face the detector reports, the widest first, at most 12; empty where there is none.
    """

    size: tuple[int, int]
    phash: str
    second: int | None
    faces: tuple[SeenFace, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """The models that look, and the largest picture that is opened, in pixels."""

    detector: Detector
    gate: Embedder
    max_pixels: int


def look(path: Path, sight: Sight) -> Look:
    """Everything that one photo shows. Raises UnusablePicture for a file that cannot be opened."""
    picture = open_picture(path, sight.max_pixels)
    rgb_u8 = picture.rgb_u8
    found = sorted(sight.detector.detect(rgb_u8), key=lambda face: -face.width)[:MAX_FACES]
    faces = (
        SeenFace(face, sight.gate.embed(rgb_u8, face), measure(rgb_u8, face, picture.jpeg_quality)) for face in found
    )
    return Look((rgb_u8.shape[1], rgb_u8.shape[0]), perceptual_hash(rgb_u8), picture.second, tuple(faces))
