"""The consensus is that of the largest group of look-alikes, and strangers are far from it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.faces.base import get_detector, get_embedder
from trainer.pictures import open_picture
from trainer.prepare.identity import DROP, LEEWAY, consensus_of, largest_group, widest_gap
from trainer.records import Floats

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"


def around(axis: int, count: int, rng: np.random.Generator) -> Floats:
    """Unit vectors near one axis of a 64-d space."""
    cloud = np.eye(64)[axis] + 0.05 * rng.standard_normal((count, 64))
    return (cloud / np.linalg.norm(cloud, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(3, 20), st.integers(0, 2), st.integers(0, 99))
def test_the_majority_is_the_person(majority: int, others: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([around(0, majority, rng), around(1, others, rng)])
    order = rng.permutation(len(vectors))
    likeness = np.empty(len(vectors))
    likeness[order] = vectors[order] @ largest_group(list(vectors[order]), 0.3)
    assert (likeness[:majority] > 0.8).all()
    assert (likeness[majority:] < 0.3).all()


def test_the_threshold_lies_in_the_album_s_widest_gap() -> None:
    assert widest_gap(np.array([0.1, 0.42, 0.8, 0.9], np.float32), 0.3, 0.5) == pytest.approx((0.3, 0.42))
    assert widest_gap(np.array([0.1, 0.9], np.float32), 0.3, 0.5) == pytest.approx((0.3, 0.5))


@given(st.integers(6, 20), st.integers(0, 2), st.integers(0, 99))
def test_a_relative_between_person_and_strangers_is_told_apart(majority: int, strangers: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    relative = (0.35 * np.eye(64)[:1] + np.sqrt(1 - 0.35**2) * np.eye(64)[2:3]).astype(np.float32)
    vectors = np.concatenate([around(0, majority, rng), relative, around(1, strangers, rng)])
    person = consensus_of(list(vectors), 0.3)
    assert (vectors @ person.vector >= person.threshold).tolist() == [True] * majority + [False] * (1 + strangers)


def test_strangers_among_themselves_do_not_pull_the_consensus() -> None:
    rng = np.random.default_rng(0)
    strangers = np.concatenate([around(axis, 1, rng) for axis in range(1, 8)])
    vectors = np.concatenate([strangers, around(0, 4, rng)])
    likeness = vectors @ largest_group(list(vectors), 0.3)
    assert (likeness[-4:] > 0.8).all()
    assert (likeness[:-4] < 0.3).all()


@pytest.mark.parametrize("engine", ["dlib", "onnx"])
def test_real_photos_agree_and_a_real_stranger_does_not(engine: str, demo_files: list[Path], weights: Path) -> None:
    detector, embedder = get_detector(weights), get_embedder(engine, weights)
    vectors = []
    for path in [*demo_files[:10], STRANGER]:
        picture = open_picture(path, 10**8).rgb_u8
        vectors.append(embedder.embed(picture, max(detector.detect(picture), key=lambda face: face.width)))
    likeness = np.array(vectors) @ largest_group(vectors, 0.3)
    assert likeness[:-1].min() > likeness[-1] + 0.1
    assert likeness[-1] < 0.3


@given(st.floats(0.75, 0.95), st.integers(0, 99))
def test_the_threshold_follows_how_alike_the_album_s_own_photos_are(alike: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = np.eye(64)[:1] + np.sqrt(1 / alike**2 - 1) * unit(rng.standard_normal((12, 64)) * (np.arange(64) > 0))
    person = consensus_of(list(unit(own).astype(np.float32)), 0.3)
    usual = float(np.median(unit(own) @ person.vector))
    assert person.threshold >= 0.3
    assert person.threshold == pytest.approx(max(0.3 + LEEWAY / 2, usual - DROP), abs=2 * LEEWAY)
    assert (unit(own) @ person.vector >= person.threshold).mean() > 0.8


def test_a_look_alike_at_a_half_is_kept_only_where_the_person_s_own_photos_differ() -> None:
    rng, axes = np.random.default_rng(0), np.eye(64, dtype=np.float32)
    alike = (0.5 * axes[0] + np.sqrt(1 - 0.5**2) * axes[9])[None]
    steady = np.concatenate([around(0, 14, rng), alike])
    person = consensus_of(list(steady), 0.3)
    assert (steady @ person.vector >= person.threshold).tolist() == [True] * 14 + [False]
    varied = unit(axes[:1] + 0.8 * unit(rng.standard_normal((14, 64)) * (np.arange(64) > 9)))
    mixed = np.concatenate([varied, alike]).astype(np.float32)
    person = consensus_of(list(mixed), 0.3)
    assert (mixed @ person.vector >= person.threshold).all()


def unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
