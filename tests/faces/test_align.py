"""Similarity transforms recover what made them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.faces.align import ARCFACE_112, crop_square, similarity_transform


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
