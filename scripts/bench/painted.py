"""What is painted over faces, and the filters that are laid on them: see scripts/bench/covered.py.

All shapes are given in pixels of the 112 px ArcFace template and brought to the photo by the face's landmarks.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from trainer.faces.align import ARCFACE_112, similarity_transform
from trainer.records import RGB, Floats

Paint = Callable[[RGB, Floats, np.random.Generator], RGB]
Filter = Callable[[RGB], RGB]
SUPER = 4  # template pixels are painted this much larger, for smooth edges
SIDE = 160 * SUPER  # of the canvas: 112 px and 24 px around
GRAY = 8  # levels between the channels of a photo that is black and white
DARK, CLOTH = (18, 20, 24), ((236, 238, 240), (120, 170, 215), (28, 28, 30), (150, 60, 70))


def sunglasses(rgb_u8: RGB, landmarks: Floats, rng: np.random.Generator) -> RGB:
    """Two dark lenses and the bridge between them."""
    canvas, shape = _canvas()
    for x, y in ARCFACE_112[:2]:
        cv2.ellipse(shape, _at(x, y + 2), (17 * SUPER, 13 * SUPER), 0, 0, 360, 255, -1)
    cv2.line(shape, _at(40, 50), _at(72, 50), 255, 4 * SUPER)
    canvas[:] = np.array(DARK) + rng.integers(0, 30)
    return _laid(rgb_u8, landmarks, canvas, shape)


def mask(rgb_u8: RGB, landmarks: Floats, rng: np.random.Generator) -> RGB:
    """A cloth from the bridge of the nose to below the chin, of one of four colours, darker towards the edges."""
    canvas, shape = _canvas()
    outline = [(56, 60), (84, 68), (102, 66), (98, 96), (78, 122), (56, 128), (34, 122), (14, 96), (10, 66), (28, 68)]
    cv2.fillPoly(shape, [np.array([_at(*point) for point in outline])], 255)
    across = np.abs(np.linspace(-1, 1, SIDE))[None, :, None]
    canvas[:] = np.array(CLOTH[int(rng.integers(len(CLOTH)))]) * (1 - 0.35 * across)
    return _laid(rgb_u8, landmarks, canvas, shape)


def phone(rgb_u8: RGB, landmarks: Floats, rng: np.random.Generator) -> RGB:
    """A phone before one half of the face, dark or light, as in a mirror."""
    canvas, shape = _canvas()
    left = 4 if rng.random() < 0.5 else 58
    cv2.rectangle(shape, _at(left, 36), _at(left + 50, 134), 255, -1)
    canvas[:] = np.array([(25, 25, 28), (225, 225, 228)][int(rng.integers(2))])
    cv2.circle(canvas, _at(left + 10, 46), 5 * SUPER, (60, 60, 70), -1)
    return _laid(rgb_u8, landmarks, canvas, shape)


def hand(rgb_u8: RGB, landmarks: Floats, rng: np.random.Generator) -> RGB:
    """Four fingers over nose and mouth, of the colour of this face's own cheeks."""
    canvas, shape = _canvas()
    points = (_onto(landmarks)[:, :2] @ np.array([[36, 76], [74, 76]]).T).T + _onto(landmarks)[:, 2]
    cheeks = [
        rgb_u8[int(np.clip(y, 0, rgb_u8.shape[0] - 1)), int(np.clip(x, 0, rgb_u8.shape[1] - 1))] for x, y in points
    ]
    skin = np.mean(cheeks, 0)
    canvas[:] = skin * 0.9
    for index in range(4):
        start, end = _at(8, 72 + 13 * index), _at(84 - 3 * index, 66 + 13 * index)
        cv2.line(shape, start, end, 255, 13 * SUPER)
        cv2.line(canvas, (start[0], start[1] + 6 * SUPER), (end[0], end[1] + 6 * SUPER), (skin * 0.55).tolist(), SUPER)
    return _laid(rgb_u8, landmarks, canvas, shape)


def rims(rgb_u8: RGB, landmarks: Floats, rng: np.random.Generator) -> RGB:
    """Clear glasses with thin dark rims: these hide nothing."""
    canvas, shape = _canvas()
    for x, y in ARCFACE_112[:2]:
        cv2.ellipse(shape, _at(x, y + 2), (15 * SUPER, 11 * SUPER), 0, 0, 360, 255, 2 * SUPER)
    cv2.line(shape, _at(50, 50), _at(62, 50), 255, 2 * SUPER)
    canvas[:] = np.array(DARK)
    return _laid(rgb_u8, landmarks, canvas, shape)


COVERS: dict[str, Paint] = {"sunglasses": sunglasses, "mask": mask, "phone": phone, "hand": hand, "rims": rims}


def smoothed(strength: float, face_px: float) -> Filter:
    """Skin smoothing: a bilateral filter as wide as the face asks for, mixed in with this strength, 0 to 1."""

    def apply(rgb_u8: RGB) -> RGB:
        soft = rgb_u8
        for _ in range(2):
            soft = cv2.bilateralFilter(soft, 0, 40, max(2.0, face_px / 40)).astype(np.uint8)
        return np.round((1 - strength) * rgb_u8 + strength * soft.astype(np.float32)).astype(np.uint8)

    return apply


def saturated(factor: float) -> Filter:
    """Every colour this many times as far from gray."""

    def apply(rgb_u8: RGB) -> RGB:
        gray = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
        return np.clip(gray + factor * (rgb_u8 - gray), 0, 255).astype(np.uint8)

    return apply


def posterised(levels: int) -> Filter:
    """Each channel in this many levels."""

    def apply(rgb_u8: RGB) -> RGB:
        return np.round(np.round(rgb_u8 / 255 * (levels - 1)) / (levels - 1) * 255).astype(np.uint8)

    return apply


def tinted(strength: float, colour: tuple[int, int, int]) -> Filter:
    """Gray in this colour, mixed in with this strength, 0 to 1."""

    def apply(rgb_u8: RGB) -> RGB:
        gray = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY)[..., None] / 255
        duotone = gray * np.array(colour, np.float32)
        return np.clip((1 - strength) * rgb_u8 + strength * duotone, 0, 255).astype(np.uint8)

    return apply


def _canvas() -> tuple[RGB, RGB]:
    return np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)


def _at(x: float, y: float) -> tuple[int, int]:
    return round((x + 24) * SUPER), round((y + 24) * SUPER)


def _onto(landmarks: Floats) -> Floats:
    """(2, 3) from the template to the photo."""
    return similarity_transform(ARCFACE_112, landmarks)


def _laid(rgb_u8: RGB, landmarks: Floats, canvas: RGB, shape: RGB) -> RGB:
    """The photo with the canvas laid over it where the shape is white; gray over a gray photo."""
    if int(np.ptp(rgb_u8.astype(np.int16), axis=2).max()) < GRAY:
        canvas = np.repeat(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    matrix = _onto(landmarks) @ np.array([[1 / SUPER, 0, -24], [0, 1 / SUPER, -24], [0, 0, 1]], np.float32)
    height, width = rgb_u8.shape[:2]
    over = cv2.warpAffine(canvas, matrix, (width, height), flags=cv2.INTER_AREA)
    share = cv2.warpAffine(shape, matrix, (width, height), flags=cv2.INTER_AREA)[..., None].astype(np.float32) / 255
    return np.round(rgb_u8 * (1 - share) + over * share).astype(np.uint8)
