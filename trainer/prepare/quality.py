"""Which photos show one clear face, and in words why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2

from trainer.faces.align import aligned_112
from trainer.pictures import UnusablePicture
from trainer.records import RGB, Face


@dataclass(frozen=True, slots=True)
class Limits:
    """What a photo must reach; units as in `trainer.recipe.PrepareSection`."""

    min_face_px: int
    min_sharpness: float
    min_detection: float
    second_face: float


def single_face(faces: Sequence[Face], limits: Limits) -> Face:
    """The photo's one face. Raises UnusablePicture: `no-face`, `several-faces` or `face-too-small`."""
    sure = sorted((face for face in faces if face.score >= limits.min_detection), key=lambda f: -f.width)
    if not sure:
        raise UnusablePicture("no-face", "no face was found", "use photos in which the face is large and uncovered")
    if len(sure) > 1 and sure[1].width >= limits.second_face * sure[0].width:
        raise UnusablePicture(
            "several-faces", f"{len(sure)} faces of similar size", "crop the photo to the person to be learned"
        )
    if sure[0].width < limits.min_face_px:
        raise UnusablePicture(
            "face-too-small", f"the face is {sure[0].width:.0f} px wide, at least {limits.min_face_px} are needed",
            "use a closer or larger photo",
        )  # fmt: skip
    return sure[0]


def sharpness(rgb_u8: RGB, face: Face) -> float:
    """Variance of the Laplacian of the aligned 112 px gray face (Pech-Pacheco et al., ICPR 2000)."""
    gray = cv2.cvtColor(aligned_112(rgb_u8, face.landmarks), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(gray, cv2.CV_64F).var())


def check_sharpness(value: float, limits: Limits) -> None:
    """Raises UnusablePicture, `blurred`, below the limit."""
    if value < limits.min_sharpness:
        raise UnusablePicture(
            "blurred", f"sharpness {value:.1f}, at least {limits.min_sharpness:g} is needed", "use a sharper photo"
        )
