"""Similarity transforms recover what made them; crops put faces where they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.faces.align import (
    ARCFACE_112,
    CENTRE,
    EYES,
    EYES_TO_MOUTH,
    crop_square,
    portrait_square,
    similarity_transform,
)


@given(st.floats(0.1, 10), st.floats(-3.1, 3.1), st.floats(-500, 500), st.floats(-500, 500))
def test_a_known_similarity_is_recovered(scale: float, angle: float, x: float, y: float) -> None:
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (scale * ARCFACE_112 @ rotation.T + [x, y]).astype(np.float64)
    matrix = similarity_transform(ARCFACE_112.astype(np.float64), moved)
    np.testing.assert_allclose(matrix, np.hstack([scale * rotation, [[x], [y]]]), rtol=1e-3, atol=1e-2)


def test_a_square_inside_the_picture_is_copied() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    np.testing.assert_array_equal(crop_square(picture, 10, 20, 32, 32), picture[20:52, 10:42])


def test_a_large_square_is_shrunk_without_aliasing() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = crop_square(stripes, 0, 0, 512, 64).astype(float)
    assert abs(shrunk.mean() - 127.5) < 2
    assert shrunk.std() < 2


def landmarks_of(eyes: float, drop: float, x: float, y: float) -> np.ndarray:
    """Five upright landmarks with this distance of the eyes and of eyes and mouth, around (x, y)."""
    points = np.array([[-0.5 * eyes, 0], [0.5 * eyes, 0], [0, 0.55 * drop], [-0.4 * eyes, drop], [0.4 * eyes, drop]])
    return (points - points.mean(0) + [x, y]).astype(np.float32)


def bright_spots(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The same picture, black but for a soft white spot on each landmark."""
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    spots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18) for px, py in landmarks)
    return np.repeat((255 * np.minimum(spots, 1)).astype(np.uint8)[:, :, None], 3, 2)


@pytest.mark.parametrize(("eyes", "drop", "rule"), [(60, 40, "eyes"), (30, 70, "mouth"), (250, 150, "eyes")])
def test_the_portrait_framing_puts_the_face_where_the_base_has_it(eyes: float, drop: float, rule: str) -> None:
    landmarks = landmarks_of(eyes, drop, 500.0, 450.0)
    picture = bright_spots(np.zeros((900, 1000, 3)), landmarks)
    crop = crop_square(picture, *portrait_square(landmarks), 256)
    scale = EYES / eyes if rule == "eyes" else EYES_TO_MOUTH / drop
    wanted = 256 * ((landmarks - landmarks.mean(0)) * scale + CENTRE)
    for x, y in wanted:
        near = crop[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7, 0].astype(float)
        rows, columns = np.mgrid[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7]
        assert near.max() > 100
        assert abs((rows * near).sum() / near.sum() - y) < 1
        assert abs((columns * near).sum() / near.sum() - x) < 1


def test_what_lies_beyond_the_picture_repeats_its_edge() -> None:
    picture = np.full((200, 200, 3), 77, np.uint8)
    crop = crop_square(picture, *portrait_square(landmarks_of(60, 60, 10.0, 10.0)), 128)
    assert crop.shape == (128, 128, 3)
    assert (crop == 77).all()
