"""Copying: nothing for a person learned, much for photos remembered, whatever the number of photos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluate.copying import copying_excess, nearest, real_difference
from trainer.evaluate.judge import Seen
from trainer.records import Face, Floats

FACE = Face((0, 0, 1, 1), np.zeros((5, 2), np.float32), 1.0)


def person(count: int, seed: int, spread: float = 1.0) -> Floats:
    """(count, 128) unit vectors around one person."""
    rng = np.random.default_rng(seed)
    rows = np.eye(1, 128) * np.sqrt(128) + spread * rng.normal(size=(count, 128))
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def seen(vectors: Floats) -> Seen:
    return Seen(vectors, (FACE,) * len(vectors))


def excess(pictures: Floats, fitted: Floats, sealed: Floats) -> float:
    names = [str(index) for index in range(len(fitted))]
    return copying_excess(seen(pictures), fitted, sealed, names, [[name] for name in names])


@given(st.integers(6, 30), st.integers(2, 12), st.integers(0, 99))
def test_new_pictures_of_the_person_copy_nothing(fit: int, sealed: int, seed: int) -> None:
    fitted, others, new = np.split(person(fit + sealed + 60, seed), [fit, fit + sealed])
    assert abs(excess(new, fitted, others)) < 0.08


def test_more_photos_on_one_side_are_no_copying() -> None:
    fitted, others, new = np.split(person(40 + 4 + 400, 0, spread=2.0), [40, 44])
    assert nearest(new @ fitted.T) - nearest(new @ others.T) > 0.05  # what would be seen without the subtraction
    assert abs(excess(new, fitted, others)) < 0.02


@given(st.integers(6, 30), st.integers(2, 12), st.integers(0, 99))
def test_copies_of_the_fit_photos_stand_out(fit: int, sealed: int, seed: int) -> None:
    fitted, others = np.split(person(fit + sealed, seed), [fit])
    assert excess(fitted, fitted, others) > 0.3


def test_pictures_without_a_face_are_no_copies() -> None:
    fitted, others = np.split(person(12, 0), [8])
    names = [str(index) for index in range(8)]
    nobody = Seen(np.zeros((4, 0), np.float32), (None,) * 4)
    said = copying_excess(nobody, fitted, others, names, [[name] for name in names])
    assert said == pytest.approx(-real_difference(fitted, others, names, [[name] for name in names]))


def test_it_is_computed_by_hand() -> None:
    def at(degrees: float) -> list[float]:
        return [float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))]

    fitted, sealed = np.array([at(0), at(60)], np.float32), np.array([at(90)], np.float32)
    real = 0.5 - np.mean([0.0, np.cos(np.radians(30))])
    assert real_difference(fitted, sealed, ["a", "b"], [["a"], ["b"]]) == pytest.approx(real, abs=1e-6)
    picture = np.array([at(10)], np.float32)
    wanted = np.cos(np.radians(10)) - np.cos(np.radians(80)) - real
    assert excess(picture, fitted, sealed) == pytest.approx(wanted, abs=1e-6)


def test_a_burst_does_not_vouch_for_itself() -> None:
    fitted, sealed = person(6, 0), person(3, 1)
    twice = np.concatenate([fitted, fitted])
    names = [str(index) for index in range(12)]
    groups = [[str(index), str(index + 6)] for index in range(6)]
    alone = real_difference(fitted, sealed, names[:6], [[name] for name in names[:6]])
    assert real_difference(twice, sealed, names, groups) == pytest.approx(alone, abs=1e-6)
    assert real_difference(twice, sealed, names, [names]) == 0  # nothing to compare with
