"""The measures of the base's benchmark, on cases whose answer is known."""

import distances
import numpy as np
import pytest
import train_probe
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm


def stretched(count: int, scale: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """Rows whose mean is 0 and whose covariance is diagonal with `scale`², exactly."""
    rows = np.random.default_rng(seed).normal(size=(count, len(scale)))
    rows -= rows.mean(0)
    whitened, _ = np.linalg.qr(rows)
    return whitened * np.sqrt(count - 1) * scale


def test_frechet_distance_of_two_known_gaussians() -> None:
    a, b = stretched(50, (1.0, 2.0)), stretched(80, (3.0, 2.0), seed=1) + np.array([0.0, 5.0])
    assert distances.frechet(a, b) == pytest.approx(5**2 + (3 - 1) ** 2)


@given(st.integers(0, 99))
def test_frechet_distance_is_that_of_the_textbook(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(30, 4))
    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    known = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert distances.frechet(a, b) == pytest.approx(known, abs=1e-6)


def test_frechet_distance_holds_with_fewer_rows_than_dimensions() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    assert distances.frechet(rows, rows[::-1]) == pytest.approx(0, abs=1e-6)
    assert distances.frechet(rows, rows + np.float32(1)) == pytest.approx(40, abs=1e-3)
    with pytest.raises(ValueError, match="two rows"):
        distances.frechet(rows[:1], rows)


def test_precision_falls_with_strangers_and_recall_with_what_is_missing() -> None:
    line = np.arange(20.0)[:, None]
    assert distances.precision_recall(line, line) == (1.0, 1.0)
    half = line[:10] + 0.1  # covers 0 to 9, its edge reaches three steps further
    precision, recall = distances.precision_recall(line, half)
    assert precision == 1
    assert recall == pytest.approx(13 / 20)
    strangers = np.concatenate([line[:10], 1000 + line[:10]])
    assert distances.precision_recall(line, strangers)[0] == 0.5
    with pytest.raises(ValueError, match="more than 3"):
        distances.precision_recall(line, line[:3])


def people(count: int, first: int, seed: int, kind: str = "a", each: int = 1) -> distances.Pool:
    rows = np.random.default_rng(seed).normal(size=(count * each, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return distances.Pool(rows, np.repeat(np.arange(first, first + count), each), np.array([kind] * count * each))


def joined(*pools: distances.Pool) -> distances.Pool:
    fields = ("vectors", "people", "kinds")
    return distances.Pool(*(np.concatenate([getattr(pool, field) for pool in pools]) for field in fields))


def test_a_pool_like_another_has_its_kinds_and_nobody_twice() -> None:
    training = joined(people(30, 0, 1, "a", each=5), people(20, 100, 2, "b"))
    held_out = joined(people(7, 200, 3, "a"), people(4, 300, 4, "b"))
    drawn = distances.like(training, held_out, np.random.default_rng(0))
    assert sorted(drawn.kinds) == sorted(held_out.kinds)
    assert len(set(drawn.people)) == 11
    with pytest.raises(ValueError, match="20 people of b"):
        distances.like(training, people(21, 400, 5, "b"), np.random.default_rng(0))


def test_copies_of_training_faces_are_told_from_new_faces() -> None:
    training, held_out = people(200, 0, 1), people(50, 300, 2)
    new = distances.nearness(people(100, 900, 3).vectors, training, held_out, 100, np.random.default_rng(0))
    assert new.difference_interval[0] < 0 < new.difference_interval[1]
    assert 0.02 < new.above < 0.98
    copies = distances.nearness(training.vectors[:100], training, held_out, 100, np.random.default_rng(0))
    assert copies.difference_interval[0] > 0
    assert copies.above == 0
    assert copies.trained_p99 == pytest.approx(1)
    assert copies.trained_interval[0] > copies.held_out


def test_a_line_between_two_classes_minds_the_smaller_one() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-0.7, 0.6, (2000, 2)), rng.normal(0.7, 0.6, (50, 2))])
    labels = np.arange(2050) >= 2000
    weights = train_probe.two_sided(rows, labels)
    right = (rows @ weights[:-1] + weights[-1] > 0) == labels
    assert right[:2000].mean() > 0.9
    assert right[2000:].mean() > 0.9
