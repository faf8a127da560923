"""What passes between the stages: small frozen records, no behaviour beyond reading and writing themselves.

Legend: `rgb_u8` is a (height, width, 3) uint8 array; `embedding` is a (d,) float32 array of L2 norm 1;
boxes are (left, top, right, bottom) in pixels; landmarks are five (x, y) points: the subject's right eye, left eye,
nose, right and left mouth corner, as they appear from left to right in an upright frontal picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

RGB = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Role = Literal["fit", "select", "report"]
Box = tuple[float, float, float, float]
Square = tuple[float, float, float]  # left, top, side in pixels
Shape = tuple[int, int]  # width, height in pixels of a sample


@dataclass(frozen=True, slots=True)
class Face:
    """One detected face.

    Attributes:
        box: (left, top, right, bottom) in pixels of the picture it was found in.
        landmarks: (5, 2) float32 pixels.
        score: detector confidence, 0 to 1.
    """

    box: Box
    landmarks: Floats
    score: float

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a picture of a face shows, measured; each word is one of `trainer.faces.attributes.VOCABULARY`."""

    colour: str
    pose: str
    light: str
    brightness: str | None
    framing: str
    background: str
    expression: str | None = None

    def words(self) -> list[str]:
        """The attribute words in caption order, without the unknown ones."""
        words = (self.expression, self.pose, self.framing, self.light, self.brightness, self.background, self.colour)
        return [word for word in words if word]


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A picture file of an album, not looked at yet.

    Attributes:
        name: path below the photos folder, with slashes; a zip archive counts as a folder. Stays on this machine.
        path: the readable file; a picture out of an archive lies in the subject's cache.
        sha256: of the file's bytes.
    """

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a photo, in its pixels, and the sample of the same shape that it becomes.

    Attributes:
        size: (width, height) of the sample.
    """

    left: float
    top: float
    width: float
    height: float
    size: Shape


@dataclass(frozen=True, slots=True)
class Photo:
    """A usable photo of the subject, before the seal.

    Attributes:
        name, path, sha256: as in `PhotoFile`.
        phash: 64-bit perceptual hash, hex.
        second: capture time in seconds since the epoch, where EXIF has it.
        face: the subject's, in pixels of the upright photo.
        embedding: the gate's (d,) unit vector.
        frame: the square of the photo to learn from, in the base's framing.
        framings: parts by name, where others than that square are learned from.
        measured: the numbers of `trainer.prepare.quality` and of the framing.
        warnings: codes of what is below a threshold but kept.
    """

    name: str
    path: Path
    sha256: str
    phash: str
    second: int | None
    face: Face
    embedding: Floats
    frame: Square
    measured: Mapping[str, float | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    framings: Mapping[str, Crop] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Framed:
    """Where the subject is in an upright photo: the box of the face, and the square that is learned from."""

    box: Box
    frame: Square


@dataclass(frozen=True, slots=True)
class Rejection:
    """One line of rejected.jsonl."""

    file: str
    code: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Split:
    """Which photo (by name, see `PhotoFile`) plays which role; near-duplicates always share one."""

    fit: tuple[str, ...]
    select: tuple[str, ...]
    report: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    def role_of(self, name: str) -> Role:
        """The role of the photo called `name`. Raises KeyError for a photo that was not dealt."""
        roles: tuple[tuple[Role, tuple[str, ...]], ...] = (
            ("fit", self.fit),
            ("select", self.select),
            ("report", self.report),
        )
        for role, names in roles:
            if name in names:
                return role
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample of 1_prepare: a framed picture and its caption.

    Attributes:
        path: PNG of the base's resolution, or of a bucket of about as many pixels.
        face_box: the face in that picture, as fractions of its width and height (left, top, right, bottom).
        mask: a gray PNG of the same size, white where the loss should look closer; None: in the face's box.
        landmarks: (5, 2) of the subject's face, as fractions too; None where nothing asked for them.
    """

    path: Path
    caption: str
    face_box: tuple[float, float, float, float]
    mask: Path | None = None
    landmarks: Floats | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved adapter of 2_fit.

    Attributes:
        strength: share of its change to the base, 0 to 1, that `adapter` holds: 1 as it was trained.
    """

    step: int
    adapter: Path
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """One fixed evaluation prompt.

    Attributes:
        text: with the trigger already in place.
        group: neutral, expression, light, wardrobe, setting, style or leak.
        expects: attribute words that the picture must show, for the prompt score.
    """

    text: str
    group: str
    expects: tuple[str, ...] = ()
