"""Albums that do not say who the person is: two kinds of photos, another person as often, nobody clearly out."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.faces.base import get_detector, get_embedder
from trainer.pictures import open_picture
from trainer.prepare.doubts import TWINS, TWO_KINDS, TWO_KINDS_SAID, YEAR_S, doubts, largest_crowd, two_kinds
from trainer.records import Floats

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"


def around(centre: Floats, count: int, rng: np.random.Generator, spread: float = 0.08) -> list[Floats]:
    """Unit vectors near a direction of a 64-d space."""
    cloud = centre / np.linalg.norm(centre) + spread * rng.standard_normal((count, 64))
    return list((cloud / np.linalg.norm(cloud, axis=1, keepdims=True)).astype(np.float32))


@given(st.integers(6, 24), st.integers(0, 99))
def test_one_person_is_one_kind(count: int, seed: int) -> None:
    kept = around(np.eye(64, dtype=np.float32)[0], count, np.random.default_rng(seed))
    assert two_kinds(kept)[0] < TWO_KINDS
    assert doubts(kept, [], 0.25, 0.3) == []


@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 99))
def test_two_who_look_alike_are_two_kinds_of_the_right_sizes(a: int, b: int, seed: int) -> None:
    rng, axes = np.random.default_rng(seed), np.eye(64, dtype=np.float32)
    kept = around(axes[0] + 0.6 * axes[1], a, rng, 0.03) + around(axes[0] - 0.6 * axes[1], b, rng, 0.03)
    contrast, sizes = two_kinds(kept)
    assert contrast > TWO_KINDS
    assert sizes == (max(a, b), min(a, b))
    (said,) = doubts(kept, [], 0.25, 0.3)
    assert f"{max(a, b)} and {min(a, b)}" in said


def test_a_crowd_of_strangers_is_no_rival_and_one_of_them_often_is() -> None:
    rng, axes = np.random.default_rng(0), np.eye(64, dtype=np.float32)
    kept = around(axes[0], 10, rng)
    crowd = [around(axis, 1, rng)[0] for axis in axes[1:9]]
    partner = around(axes[9], 5, rng)
    assert largest_crowd(crowd, 0.5) == 1
    assert doubts(kept, crowd, 0.25, 0.3) == []
    (said,) = doubts(kept, crowd + partner, 0.25, 0.3)
    assert said.startswith("5 photos of one other person")
    assert "--reference" in said


def test_a_narrow_gap_is_said() -> None:
    kept = around(np.eye(64, dtype=np.float32)[0], 10, np.random.default_rng(0))
    (said,) = doubts(kept, [], 0.05, 0.3)
    assert "neither clearly" in said


def test_the_demo_is_one_person_and_half_an_album_of_another_is_not_passed_over(
    demo_files: list[Path], weights: Path
) -> None:
    detector, gate = get_detector(weights), get_embedder("dlib", weights)
    vectors = []
    for path in demo_files[:12]:
        picture = open_picture(path, 10**8).rgb_u8
        vectors.append(gate.embed(picture, detector.detect(picture)[0]))
    assert doubts(vectors, [], 0.25, 0.3) == []
    stranger = open_picture(STRANGER, 10**8).rgb_u8
    turned = [np.ascontiguousarray(np.asarray(Image.fromarray(stranger).rotate(a))) for a in range(-12, 13, 4)]
    others = [gate.embed(picture, detector.detect(picture)[0]) for picture in turned]
    assert doubts(vectors, others, 0.25, 0.3)[0].startswith("7 photos of one other person")


def at_two_ages(rng: np.random.Generator) -> list[Floats]:
    axes = np.eye(64, dtype=np.float32)
    return around(axes[0] + 0.6 * axes[1], 5, rng, 0.03) + around(axes[0] - 0.6 * axes[1], 4, rng, 0.03)


def test_dates_tell_different_ages_from_two_people() -> None:
    kept = at_two_ages(np.random.default_rng(0))
    year = int(YEAR_S)
    apart = [index * 1000 for index in range(5)] + [9 * year + index * 1000 for index in range(4)]
    (said,) = doubts(kept, [], 0.25, 0.3, seconds=apart)
    assert TWO_KINDS_SAID in said
    assert "8 years or more" in said
    together = [index * year for index in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    for dates in (together, [*apart[:-1], None], []):
        (said,) = doubts(kept, [], 0.25, 0.3, seconds=dates)
        assert "two people who look alike" in said
    assert "two people who look alike" in doubts(kept, [], 0.25, 0.3, seconds=[year // 4 * i for i in range(9)])[0]


def test_dates_alone_are_no_doubt() -> None:
    kept = around(np.eye(64, dtype=np.float32)[0], 10, np.random.default_rng(0))
    assert doubts(kept, [], 0.25, 0.3, seconds=[int(YEAR_S) * 3 * index for index in range(10)]) == []


def test_two_faces_alike_in_several_photos_may_be_a_twin() -> None:
    kept = around(np.eye(64, dtype=np.float32)[0], 10, np.random.default_rng(0))
    assert doubts(kept, [], 0.25, 0.3, beside=TWINS - 1) == []
    (said,) = doubts(kept, [], 0.25, 0.3, beside=TWINS)
    assert "twin" in said


def test_who_was_named_by_a_reference_is_not_asked_for_again() -> None:
    rng, axes = np.random.default_rng(0), np.eye(64, dtype=np.float32)
    kept, partner = around(axes[0], 6, rng), around(axes[9], 8, rng)
    assert "--reference" in doubts(kept, partner, 0.25, 0.3)[0]
    assert doubts(kept, partner, 0.25, 0.3, referred=True) == []


def test_an_album_with_the_person_twice_in_a_picture_is_told_of_a_twin(
    photos: Path, tmp_path: Path, demo_files: list[Path], cli: Command, fast: list[str], weights: Path
) -> None:
    for index in range(2):
        left, right = (Image.open(file).convert("RGB") for file in demo_files[12 + index : 15 + index : 2])
        both = Image.new("RGB", (2 * left.width, left.height))
        both.paste(left, (0, 0))
        both.paste(right.resize(left.size), (left.width, 0))
        both.save(photos / f"both{index}.png")
    done = cli("prepare", "alice", "--photos", "photos", "--json", *fast)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["result"]["stages"]["1_prepare"]
    assert facts["rejected"] == {"look-alikes": 2}
    (said,) = facts["doubts"]
    assert said.startswith("2 photos show several faces that look like the person")


@pytest.mark.parametrize("count", [1, 7])
def test_a_run_says_what_is_unclear(
    count: int, photos: Path, tmp_path: Path, cli: Command, fast: list[str], weights: Path
) -> None:
    with Image.open(STRANGER) as image:
        for index in range(count):
            image.rotate(4 * index - 12).save(photos / f"other{index}.png")
    done = cli("prepare", "alice", "--photos", "photos", "--json", *fast)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["result"]["stages"]["1_prepare"]
    assert facts["rejected"] == {"other-person": count}
    assert len(facts["doubts"]) == (count == 7)
    told = cli("prepare", "alice", "--photos", "photos", *fast)
    assert ("unclear" in told.stdout + told.stderr) == (count == 7)
