"""What makes a photo hard to learn from: numbers measured on the face, and what the recipe makes of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from trainer.faces.align import ARCFACE_112, similarity_transform
from trainer.pictures import UnusablePicture
from trainer.prepare.cover import Mask, occlusion
from trainer.prepare.filters import traces
from trainer.prepare.framing import cut_share
from trainer.records import RGB, Face, Floats

Choice = Literal["reject", "warn", "keep"]
SHADOW, HIGHLIGHT = 12, 250  # gray levels at which a camera has kept nothing
# A generic head seen from the front, in eye distances: how far the nose tip stands out of the plane of the eyes, and
# the drop from the eyes to the nose and to the mouth (the last two are the ArcFace template's).
NOSE_OUT, EYES_TO_NOSE, EYES_TO_MOUTH = 0.55, 0.57, 1.155


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds and what happens beyond them; meanings and units as in `trainer.sections.PrepareSection`."""

    min_face_px: int
    min_sharpness: float
    min_detection: float
    second_face: float
    max_shadow: float = 1.0
    max_highlight: float = 1.0
    max_turn_deg: float = 180.0
    min_jpeg_quality: int = 1
    max_cut: float = 1.0
    max_occluded: float = 1.0
    min_texture: float = 0.0
    max_chroma: float = 200.0
    max_tint_deg: float = 180.0
    min_levels: float = 0.0
    on_small: Choice = "reject"
    on_blurred: Choice = "reject"
    on_dark: Choice = "warn"
    on_bright: Choice = "warn"
    on_turned: Choice = "warn"
    on_compressed: Choice = "warn"
    on_cut: Choice = "reject"
    on_look_alikes: Choice = "reject"
    on_occluded: Choice = "warn"
    on_filtered: Choice = "warn"


@dataclass(frozen=True, slots=True)
class Quality:
    """Numbers of one face in one photo.

    Attributes:
        face_px: width of the face's box.
        sharpness: see `sharpness`.
        shadow, highlight: 0 to 1, shares of the face that are black or burnt out.
        yaw_deg, pitch_deg: see `turn`.
        jpeg_quality: 1 to 100, None where the file is no JPEG.
        cut: 0 to 1, share of the face that lies outside the photo.
        occluded: see `trainer.prepare.cover.occlusion`.
        texture, chroma, tint_deg, levels: see `trainer.prepare.filters.Traces`.
    """

    face_px: float
    sharpness: float
    shadow: float
    highlight: float
    yaw_deg: float
    pitch_deg: float
    jpeg_quality: int | None
    cut: float
    occluded: float = 0.0
    texture: float = 1.0
    chroma: float = 0.0
    tint_deg: float = 0.0
    levels: float = 1.0


def measure(rgb_u8: RGB, face: Face, jpeg_quality: int | None) -> Quality:
    """All numbers of a (height, width, 3) uint8 picture's face."""
    rgb_112, gray, inside = _aligned(rgb_u8, face.landmarks)
    filtered = traces(rgb_112, gray, inside)
    shadow, highlight = (float((gray[inside] <= SHADOW).mean()), float((gray[inside] >= HIGHLIGHT).mean()))
    yaw, pitch = turn(face.landmarks)
    return Quality(
        round(face.width, 1), round(_sharpness(gray, inside), 2), round(shadow, 4), round(highlight, 4),
        round(yaw, 1), round(pitch, 1), jpeg_quality,
        round(cut_share(face.landmarks, rgb_u8.shape[1], rgb_u8.shape[0]), 4),
        round(occlusion(rgb_112, inside), 4), round(filtered.texture, 4), round(filtered.chroma, 1),
        round(filtered.tint_deg, 1), round(filtered.levels, 4),
    )  # fmt: skip


def sharpness(rgb_u8: RGB, face: Face) -> float:
    """Variance of the Laplacian of the aligned 112 px gray face (Pech-Pacheco et al., ICPR 2000).

    Only what lies inside the picture counts: the edge where a face is cut off is no detail of it.
    """
    _, gray, inside = _aligned(rgb_u8, face.landmarks)
    return _sharpness(gray, inside)


def turn(landmarks: Floats) -> tuple[float, float]:
    """Yaw and pitch of the head in degrees, from five (x, y) landmarks; rough, a generic head is assumed.

    Yaw is above 0 where the nose points to the right of the picture, pitch above 0 where it points down.
    """
    eye_a, eye_b, nose, mouth = landmarks[0], landmarks[1], landmarks[2], (landmarks[3] + landmarks[4]) / 2
    between, across = (eye_a + eye_b) / 2, eye_b - eye_a
    down = mouth - between
    eyes, drop = float(np.linalg.norm(across)), float(np.linalg.norm(down))
    # A turn shortens one of the two distances: the size of the head is read off the other.
    scale = max(eyes, drop / EYES_TO_MOUTH, 1e-6)
    beside = float((nose - between) @ across) / max(eyes, 1e-6)
    below = float((nose - between) @ down) / max(drop, 1e-6) - EYES_TO_NOSE / EYES_TO_MOUTH * drop
    yaw, pitch = (np.degrees(np.arcsin(np.clip(v / (NOSE_OUT * scale), -1, 1))) for v in (beside, below))
    return float(yaw), float(pitch)


def check_quality(found: Quality, limits: Limits) -> tuple[str, ...]:
    """Codes of what the recipe only warns of. Raises UnusablePicture for the first number it rejects."""
    warnings = []
    for code, choice, reason, hint in _beyond(found, limits):
        if choice == "reject":
            raise UnusablePicture(code, reason, hint)
        if choice == "warn":
            warnings.append(code)
    return tuple(warnings)


def _beyond(found: Quality, limits: Limits) -> list[tuple[str, Choice, str, str]]:
    """Code, choice, reason and hint of every number beyond its threshold."""
    turned = max(abs(found.yaw_deg), abs(found.pitch_deg))
    quality, signs = found.jpeg_quality, _filter_signs(found, limits)
    checks: list[tuple[bool, str, Choice, str, str]] = [
        (
            found.face_px < limits.min_face_px, "face-too-small", limits.on_small,
            f"the face is {found.face_px:.0f} px wide, at least {limits.min_face_px} are needed",
            "use a closer or larger photo",
        ),
        (
            found.sharpness < limits.min_sharpness, "blurred", limits.on_blurred,
            f"sharpness {found.sharpness:.1f}, at least {limits.min_sharpness:g} is needed", "use a sharper photo",
        ),
        (
            found.shadow > limits.max_shadow, "too-dark", limits.on_dark,
            f"{found.shadow:.0%} of the face is black, at most {limits.max_shadow:.0%}", "use a brighter photo",
        ),
        (
            found.highlight > limits.max_highlight, "too-bright", limits.on_bright,
            f"{found.highlight:.0%} of the face is burnt out, at most {limits.max_highlight:.0%}",
            "use a darker photo",
        ),
        (
            turned > limits.max_turn_deg, "turned-away", limits.on_turned,
            f"the head is turned by about {turned:.0f} degrees, at most {limits.max_turn_deg:g}",
            "use a photo that shows more of the face",
        ),
        (
            quality is not None and quality < limits.min_jpeg_quality, "compressed", limits.on_compressed,
            f"JPEG quality {quality}, at least {limits.min_jpeg_quality}", "use the original, not a forwarded copy",
        ),
        (
            found.cut > limits.max_cut, "cut-off", limits.on_cut,
            f"{found.cut:.0%} of the face lies outside the photo, at most {limits.max_cut:.0%}",
            "use a photo that shows the whole face",
        ),
        (
            found.occluded > limits.max_occluded, "occluded", limits.on_occluded,
            f"{found.occluded:.0%} of the eyes or of nose and mouth is hidden, at most {limits.max_occluded:.0%}",
            "use a photo without dark glasses or a mask",
        ),
        (
            bool(signs), "filtered", limits.on_filtered, "it looks filtered: " + "; ".join(signs),
            "use the photo as the camera took it",
        ),
    ]  # fmt: skip
    return [(code, choice, reason, hint) for beyond, code, choice, reason, hint in checks if beyond]


def _filter_signs(found: Quality, limits: Limits) -> list[str]:
    """In words, every number beyond its threshold that filters change."""
    signs = [
        (
            found.texture < limits.min_texture,
            f"texture of the skin {found.texture:.3f}, at least {limits.min_texture:g}",
        ),
        (found.chroma > limits.max_chroma, f"colours of strength {found.chroma:.0f}, at most {limits.max_chroma:g}"),
        (
            found.tint_deg > limits.max_tint_deg,
            f"a hue {found.tint_deg:.0f} degrees from that of skin, at most {limits.max_tint_deg:g}",
        ),
        (found.levels < limits.min_levels, f"{found.levels:.0%} of the gray levels, at least {limits.min_levels:.0%}"),
    ]
    return [words for beyond, words in signs if beyond]


def _aligned(rgb_u8: RGB, landmarks: Floats) -> tuple[RGB, RGB, Mask]:
    """The (112, 112, 3) ArcFace crop, its gray, and which of its pixels and their neighbours lie inside the picture."""
    matrix = similarity_transform(landmarks, ARCFACE_112)
    rgb_112 = cv2.warpAffine(rgb_u8, matrix, (112, 112), flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    gray = cv2.cvtColor(rgb_112, cv2.COLOR_RGB2GRAY)
    return rgb_112, gray.astype(np.uint8), inside_of(matrix, rgb_u8.shape[0], rgb_u8.shape[1])


def inside_of(matrix: Floats, height: int, width: int) -> Mask:
    """(112, 112): which pixels of the crop, and their neighbours, come from inside the picture; all where none does."""
    corners = np.array([[0, 0, 1], [111, 0, 1], [0, 111, 1], [111, 111, 1]], np.float32)
    x, y = (corners @ cv2.invertAffineTransform(matrix).T).T
    if min(x.min(), y.min()) >= 1 and x.max() <= width - 2 and y.max() <= height - 2:
        return np.ones((112, 112), np.bool_)  # the usual case, without a mask as large as the picture
    whole = np.full((height, width), 255, np.uint8)
    covered = cv2.warpAffine(whole, matrix, (112, 112), flags=cv2.INTER_NEAREST)
    inside = cv2.erode(covered, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=255) > 0
    return inside if inside.any() else np.ones_like(inside)


def _sharpness(gray: RGB, inside: Mask) -> float:
    return float(cv2.Laplacian(gray, cv2.CV_64F)[inside].var())
