"""Ceiling, floors, threshold and interval, against small tables whose answer can be seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluate.calibrate import (
    bootstrap_interval,
    bootstrap_means,
    of_ceiling,
    real_ceiling,
    strangers,
    threshold_at,
)

rates = st.floats(0.001, 0.49)


@given(st.integers(1, 8), st.integers(1, 3), st.integers(2, 8), st.integers(0, 99))
def test_the_interval_contains_the_mean_and_repeats_itself(prompts: int, seeds: int, photos: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cosines = rng.normal(0.4, 0.1, (prompts, seeds, photos)).astype(np.float32)
    low, high = bootstrap_interval(cosines, 300)
    assert cosines.min() - 1e-6 <= low <= cosines.mean() <= high <= cosines.max() + 1e-6
    assert (low, high) == bootstrap_interval(cosines, 300)


def test_more_pictures_make_a_narrower_interval_and_equal_ones_none() -> None:
    rng = np.random.default_rng(0)
    few, many = (rng.normal(0.4, 0.1, (n, 2, n)) for n in (4, 40))
    widths = [high - low for low, high in (bootstrap_interval(table, 400) for table in (few, many))]
    assert widths[1] < 0.4 * widths[0]
    assert bootstrap_interval(np.full((3, 2, 4), 0.5), 100) == (0.5, 0.5)


def test_the_interval_counts_photos_that_differ_and_not_only_pictures() -> None:
    spread = np.zeros((30, 4, 4))
    spread[:, :, :2] = 1.0  # half of the sealed photos are not recognised: few photos, so little is known
    low, high = bootstrap_interval(spread, 400)
    assert high - low > 0.7


def test_the_ceiling_leaves_out_near_duplicates_and_the_photo_itself() -> None:
    groups = [("a", "b"), ("c",), ("d",)]
    table = np.array([[1.0, 0.99, 0.5, 0.3], [0.99, 1.0, 0.7, 0.1], [0.5, 0.7, 1.0, 0.2]], np.float32)
    found = real_ceiling(table, "abc", "abcd", groups)
    assert found == pytest.approx(np.mean([0.5, 0.3, 0.7, 0.1, 0.5, 0.7, 0.2]))


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_of_ceiling_is_zero_at_the_floor_and_one_at_the_ceiling(mean: float, floor: float, ceiling: float) -> None:
    if ceiling - floor <= 1e-6:
        assert of_ceiling(mean, floor, ceiling) is None
    else:
        assert of_ceiling(floor, floor, ceiling) == 0
        assert of_ceiling(ceiling, floor, ceiling) == 1
        share = of_ceiling(mean, floor, ceiling)
        assert share is not None
        assert (share > 0.5) == (mean - floor > (ceiling - floor) * 0.5)


@given(st.integers(1, 500), rates, st.integers(0, 99))
def test_no_more_strangers_than_allowed_reach_the_threshold(count: int, rate: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32)
    threshold = threshold_at(scores, rate)
    assert (scores >= threshold).mean() <= rate
    assert (scores >= threshold - 1e-6).mean() + 1 / count > rate  # and no higher than it must be


def test_the_threshold_of_a_known_cohort() -> None:
    assert threshold_at(np.arange(101) / 100, 0.05) == pytest.approx(0.95)
    assert threshold_at(np.arange(101) / 100, 0.001) > 1.0


@pytest.mark.parametrize("engine", ["onnx", "dlib"])
def test_the_shipped_strangers_are_many_different_unit_vectors(engine: str) -> None:
    table = strangers(engine)
    assert table is not None
    assert len(table) >= 100
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    alike = table @ table.T
    np.fill_diagonal(alike, 0)
    assert alike.max() < 0.999


def test_an_engine_without_strangers_has_none() -> None:
    assert strangers("insightface") is None


@pytest.mark.parametrize("shape", [(11, 2, 4), (1, 2, 4), (3, 1, 2)])
def test_draws_that_are_kept_are_those_of_the_seed(shape: tuple[int, ...]) -> None:
    cosines = np.random.default_rng(len(shape)).normal(0.4, 0.1, shape).astype(np.float32)
    for seed in (0, 0, 1, 0):
        rng, wanted = np.random.default_rng(seed), []
        for _ in range(100):
            rows, columns, photos = (rng.integers(n, size=n) for n in shape)
            wanted.append(cosines[np.ix_(rows, columns, photos)].mean())
        assert np.array_equal(bootstrap_means(cosines, 100, seed), np.array(wanted, np.float32))
