"""Copying: nothing for a person learned, much for photos remembered, whatever the number of photos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluate.copying import copying_excess, nearest


def table(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 0.1, (rows, columns)).astype(np.float32)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 99))
def test_the_same_photos_on_both_sides_are_no_copying(rows: int, columns: int, seed: int) -> None:
    cosines = table(rows, columns, seed)
    assert copying_excess(cosines, cosines) == 0


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_exchanging_the_sides_turns_the_sign(rows: int, fit: int, sealed: int, seed: int) -> None:
    a, b = table(rows, fit, seed), table(rows, sealed, seed + 1)
    assert copying_excess(a, b) == pytest.approx(-copying_excess(b, a))


@pytest.mark.parametrize(("fit", "sealed"), [(12, 4), (30, 5), (4, 12)])
def test_more_photos_on_one_side_are_no_copying(fit: int, sealed: int) -> None:
    alike = table(400, fit + sealed, 0)
    assert abs(nearest(alike[:, :fit]) - nearest(alike[:, fit:])) > 0.05  # what would be seen without cutting
    assert abs(copying_excess(alike[:, :fit], alike[:, fit:])) < 0.01


@given(st.integers(2, 20), st.integers(2, 6), st.integers(0, 99))
def test_a_picture_that_is_a_fit_photo_is_copying(fit: int, sealed: int, seed: int) -> None:
    to_fit, to_sealed = table(10, fit, seed), table(10, sealed, seed + 1)
    before = copying_excess(to_fit, to_sealed)
    to_fit[np.arange(10), np.arange(10) % fit] = 1.0
    assert copying_excess(to_fit, to_sealed) > before + 0.02
    assert copying_excess(np.ones_like(to_fit), to_sealed) > 0.2


def test_it_is_computed_by_hand_where_subsets_are_few() -> None:
    to_fit = np.array([[0.1, 0.5, 0.9]], np.float32)
    to_sealed = np.array([[0.2, 0.4]], np.float32)
    assert copying_excess(to_fit, to_sealed) == pytest.approx((0.5 + 0.9 + 0.9) / 3 - 0.4)
