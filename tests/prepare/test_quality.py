"""One clear face: the faces' sizes and scores decide, each refusal has its own code."""

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.faces.align import ARCFACE_112, similarity_transform
from trainer.pictures import UnusablePicture
from trainer.prepare.quality import Limits, Quality, check_quality, inside_of, measure, sharpness, turn
from trainer.records import Face, Floats
from trainer.sections import PrepareSection

LIMITS = Limits(
    min_face_px=48, min_sharpness=12.0, min_detection=0.7, second_face=0.6,
    max_shadow=0.4, max_highlight=0.4, max_turn_deg=60.0, min_jpeg_quality=30,
    max_cut=0.25, max_occluded=0.55, min_texture=0.06, max_chroma=45.0, max_tint_deg=25.0, min_levels=0.45,
)  # fmt: skip


def face(width: float, score: float = 0.99) -> Face:
    return Face((0.0, 0.0, width, width), ARCFACE_112, score)


def test_blur_lowers_the_sharpness_whatever_the_picture_s_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    sharp = sharpness(noise, face(112))
    blurred = sharpness(cv2.GaussianBlur(noise, (0, 0), 4).astype(np.uint8), face(112))
    large = cv2.resize(noise, (448, 448), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    assert sharp > 50 * blurred
    assert sharpness(large, Face((0.0, 0.0, 448.0, 448.0), ARCFACE_112 * 4, 1.0)) > 10 * blurred


def test_the_edge_where_a_face_is_cut_off_is_no_sharpness() -> None:
    bright = np.full((112, 112, 3), 200, np.uint8)
    for cut in (0, 30, 50):  # the face reaches so far beyond the left border of the picture
        beyond = ARCFACE_112 - np.array([cut, 0], np.float32)
        assert sharpness(bright, Face((0.0, 0.0, 112.0, 112.0), beyond, 1.0)) == 0


@given(st.floats(-40, 200), st.floats(-40, 200), st.floats(0.3, 3), st.floats(-3.2, 3.2))
def test_what_is_inside_needs_no_mask_of_the_whole_picture(x: float, y: float, scale: float, angle: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = ((ARCFACE_112 - 56) @ turn.T + (x, y)).astype(np.float32)
    matrix = similarity_transform(landmarks, ARCFACE_112)
    covered = cv2.warpAffine(np.full((160, 180), 255, np.uint8), matrix, (112, 112), flags=cv2.INTER_NEAREST)
    eroded = cv2.erode(covered, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=255) > 0
    expected = eroded if eroded.any() else np.ones_like(eroded)
    assert np.array_equal(inside_of(matrix, 160, 180), expected)


CLEAR = Quality(120.0, 80.0, 0.0, 0.0, 5.0, -5.0, 90, 0.0)
BEYOND = [
    ({"face_px": 47.9}, "face-too-small", "on_small"),
    ({"sharpness": 11.9}, "blurred", "on_blurred"),
    ({"shadow": 0.5}, "too-dark", "on_dark"),
    ({"highlight": 0.5}, "too-bright", "on_bright"),
    ({"yaw_deg": -61.0}, "turned-away", "on_turned"),
    ({"pitch_deg": 61.0}, "turned-away", "on_turned"),
    ({"jpeg_quality": 29}, "compressed", "on_compressed"),
    ({"cut": 0.26}, "cut-off", "on_cut"),
    ({"occluded": 0.56}, "occluded", "on_occluded"),
    ({"texture": 0.059}, "filtered", "on_filtered"),
    ({"chroma": 45.1}, "filtered", "on_filtered"),
    ({"tint_deg": 25.1}, "filtered", "on_filtered"),
    ({"levels": 0.44}, "filtered", "on_filtered"),
]


@pytest.mark.parametrize(("changed", "code", "key"), BEYOND)
def test_each_number_is_rejected_warned_of_or_kept_as_the_recipe_says(
    changed: dict[str, float], code: str, key: str
) -> None:
    found = replace(CLEAR, **changed)
    with pytest.raises(UnusablePicture) as caught:
        check_quality(found, replace(LIMITS, **{key: "reject"}))
    assert caught.value.code == code
    assert caught.value.reason
    assert caught.value.hint
    assert check_quality(found, replace(LIMITS, **{key: "warn"})) == (code,)
    assert check_quality(found, replace(LIMITS, **{key: "keep"})) == ()


def test_a_clear_photo_and_one_at_every_threshold_pass() -> None:
    assert check_quality(CLEAR, LIMITS) == ()
    assert (
        check_quality(Quality(48.0, 12.0, 0.4, 0.4, 60.0, -60.0, 30, 0.25, 0.55, 0.06, 45.0, 25.0, 0.45), LIMITS) == ()
    )
    assert check_quality(replace(CLEAR, jpeg_quality=None), LIMITS) == ()


def test_the_recipe_has_every_threshold_and_choice() -> None:
    section = PrepareSection()
    assert {name: getattr(section, name) for name in Limits.__slots__} == asdict(LIMITS)


def test_black_and_burnt_out_faces_are_measured() -> None:
    half = np.full((112, 112, 3), 128, np.uint8)
    half[:56], half[56:] = 5, 128
    assert measure(half, face(112), None).shadow == pytest.approx(0.5, abs=0.03)
    assert measure(255 - half + 5, face(112), None).highlight == pytest.approx(0.5, abs=0.03)


def seen_from(yaw: float, pitch: float) -> Floats:
    """Landmarks of a generic head of 100 px between the eyes, turned by these degrees, far away from the camera."""
    head = np.array([[-50, 0, 0], [50, 0, 0], [0, 57, 55], [-36, 115.5, 0], [36, 115.5, 0]], np.float64)
    y, p = np.radians([yaw, pitch])
    x = head[:, 0] * np.cos(y) + head[:, 2] * np.sin(y)
    z = head[:, 2] * np.cos(y) - head[:, 0] * np.sin(y)
    return np.stack([x, head[:, 1] * np.cos(p) + z * np.sin(p)], 1).astype(np.float32) + np.float32(300)


@pytest.mark.parametrize("degrees", [-45, -20, 0, 20, 45])
def test_the_turn_of_a_head_is_read_off_its_landmarks(degrees: int) -> None:
    yaw, pitch = turn(seen_from(degrees, 0))
    assert yaw == pytest.approx(degrees, abs=6)
    assert abs(pitch) < 12
    yaw, pitch = turn(seen_from(0, degrees))
    assert pitch == pytest.approx(degrees, abs=12)
    assert abs(yaw) < 6
