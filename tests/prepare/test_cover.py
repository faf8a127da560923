"""What hides a face, and what filters leave in it, told on real faces with either laid over them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.faces.align import ARCFACE_112
from trainer.faces.base import Detector, get_detector
from trainer.pictures import UnusablePicture
from trainer.prepare.cover import occlusion
from trainer.prepare.filters import traces
from trainer.prepare.quality import Limits, Quality, check_quality, measure
from trainer.records import RGB, Face, Floats
from trainer.sections import PrepareSection

SECTION = PrepareSection()
LIMITS = Limits(**{name: getattr(SECTION, name) for name in Limits.__slots__})
Change = Callable[[RGB, Floats], RGB]


@pytest.fixture(scope="module")
def faces(demo_files: list[Path], weights: Path) -> list[tuple[RGB, Face]]:
    """The demo person's photos with their faces."""
    detector: Detector = get_detector(weights)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in demo_files]
    return [(picture, max(detector.detect(picture), key=lambda face: face.width)) for picture in pictures]


def dark_glasses(rgb_u8: RGB, landmarks: Floats) -> RGB:
    picture = rgb_u8.copy()
    apart = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    for x, y in landmarks[:2]:
        cv2.ellipse(
            picture, (round(x), round(y)), (round(0.48 * apart), round(0.37 * apart)), 0, 0, 360, (25, 25, 30), -1
        )
    return picture


def blue_mask(rgb_u8: RGB, landmarks: Floats) -> RGB:
    picture = rgb_u8.copy()
    across, nose = landmarks[1] - landmarks[0], landmarks[2]
    down = np.array([-across[1], across[0]])
    corners = [nose - 0.2 * down, nose + 0.9 * across, nose + 0.8 * across + 1.2 * down]
    corners += [nose - 0.8 * across + 1.2 * down, nose - 0.9 * across]
    cv2.fillPoly(picture, [np.round(corners).astype(np.int32)], (120, 170, 215))
    return picture


def saturated(rgb_u8: RGB, landmarks: Floats) -> RGB:
    gray = rgb_u8.mean(2, keepdims=True)
    return np.clip(gray + 2.2 * (rgb_u8 - gray), 0, 255).astype(np.uint8)


def blue_light(rgb_u8: RGB, landmarks: Floats) -> RGB:
    return np.clip(rgb_u8.mean(2, keepdims=True) * np.array([0.5, 0.8, 1.2]), 0, 255).astype(np.uint8)


def posterised(rgb_u8: RGB, landmarks: Floats) -> RGB:
    return (np.round(rgb_u8 / 64.0) * 63).astype(np.uint8)


def untouched(rgb_u8: RGB, landmarks: Floats) -> RGB:
    return rgb_u8


def gray(rgb_u8: RGB, landmarks: Floats) -> RGB:
    return np.repeat(cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY)[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "code", "least"),
    [
        (dark_glasses, "occluded", 1.0),
        (blue_mask, "occluded", 0.9),
        (saturated, "filtered", 0.9),
        (blue_light, "filtered", 1.0),
        (posterised, "filtered", 1.0),
    ],
)
def test_what_hides_or_filters_a_face_is_warned_of(
    change: Change, code: str, least: float, faces: list[tuple[RGB, Face]]
) -> None:
    found = [measure(change(picture, face.landmarks), face, None) for picture, face in faces]
    assert np.mean([code in check_quality(one, LIMITS) for one in found]) >= least


@pytest.mark.parametrize("change", [untouched, gray])
def test_faces_as_they_are_get_neither_warning(change: Change, faces: list[tuple[RGB, Face]]) -> None:
    for picture, face in faces:
        found = measure(change(picture, face.landmarks), face, None)
        assert not {"occluded", "filtered"} & set(check_quality(found, LIMITS)), found


def test_smoothing_lowers_the_texture_of_the_skin_alone(faces: list[tuple[RGB, Face]]) -> None:
    for picture, face in faces[:6]:
        soft = cv2.bilateralFilter(picture, 0, 40, 5).astype(np.uint8)
        assert measure(soft, face, None).texture < measure(picture, face, None).texture


def test_a_filtered_photo_says_which_numbers_are_beyond() -> None:
    strange = Quality(120.0, 80.0, 0.0, 0.0, 0.0, 0.0, 90, 0.0, texture=0.01, chroma=70.0, tint_deg=90.0, levels=0.2)
    with pytest.raises(UnusablePicture, match=r"texture.*strength 70.*90 degrees.*20% of the gray levels"):
        check_quality(strange, replace(LIMITS, on_filtered="reject"))


def test_faces_beyond_the_border_and_plain_pictures_have_numbers() -> None:
    beyond = Face((0.0, 0.0, 60.0, 60.0), ARCFACE_112 - np.float32(300), 1.0)
    for level in (0, 128, 255):
        plain = np.full((112, 112, 3), level, np.uint8)
        for face in (beyond, Face((0.0, 0.0, 112.0, 112.0), ARCFACE_112, 1.0)):
            found = measure(plain, face, None)
            assert 0 <= found.occluded <= 1
            assert (found.chroma, found.tint_deg, found.levels) == (0.0, 0.0, 1.0)


def test_nothing_inside_is_nothing_hidden() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    nowhere = np.zeros((112, 112), np.bool_)
    assert occlusion(noise, nowhere) == 0.0
    assert traces(noise, noise[..., 0], nowhere).texture == 1.0
