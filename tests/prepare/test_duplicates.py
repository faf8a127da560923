"""Near-duplicates: copies of one shot share a group, different shots do not."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from trainer.pictures import open_picture
from trainer.prepare.duplicates import near_duplicate_groups, perceptual_hash
from trainer.records import Face, Photo

FACE = Face((0, 0, 1, 1), np.zeros((5, 2), np.float32), 1.0)
AXES = np.eye(64, dtype=np.float32)


def photo(name: str, phash: str, direction: int = 0, second: int | None = None, sha256: str = "") -> Photo:
    return Photo(name, Path(name), sha256 or name, phash, second, FACE, AXES[direction], (0, 0, 1))


def photo_of(path: Path, direction: int) -> Photo:
    return photo(path.name, perceptual_hash(open_picture(path, 10**8).rgb_u8), direction)


def recompressed(image: Image.Image, path: Path) -> None:
    image.save(path, quality=40)


def resized(image: Image.Image, path: Path) -> None:
    image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(path, quality=95)


def brightened(image: Image.Image, path: Path) -> None:
    ImageEnhance.Brightness(image).enhance(1.15).save(path, quality=95)


def trimmed(image: Image.Image, path: Path) -> None:
    image.crop((2, 2, image.width - 2, image.height - 2)).save(path, quality=95)


@pytest.mark.parametrize("change", [recompressed, resized, brightened, trimmed])
def test_a_copy_shares_the_group_of_its_original(
    change: Callable[[Image.Image, Path], None], demo_files: list[Path], tmp_path: Path
) -> None:
    for path in demo_files[:6]:
        copy = tmp_path / f"copy of {path.name}"
        with Image.open(path) as image:
            change(image.convert("RGB"), copy)
        groups = near_duplicate_groups([photo_of(path, 0), photo_of(copy, 1)], burst=0.97)
        assert groups == [tuple(sorted([path.name, copy.name]))]


def test_different_shots_stay_apart(demo_files: list[Path]) -> None:
    photos = [photo_of(path, index) for index, path in enumerate(demo_files[:12])]
    assert len(near_duplicate_groups(photos, burst=0.97)) >= 8


def test_the_same_second_is_one_burst() -> None:
    photos = [photo("a", "0" * 16, 0, 1000), photo("b", "f" * 16, 1, 1000), photo("c", "a" * 16, 2, 1001)]
    assert near_duplicate_groups(photos, burst=0.97) == [("a", "b"), ("c",)]


def test_the_same_bytes_are_one_photo() -> None:
    photos = [photo("a", "0" * 16, 0, sha256="same"), photo("b", "f" * 16, 1, sha256="same")]
    assert near_duplicate_groups(photos, burst=0.97) == [("a", "b")]


def test_a_close_embedding_is_a_burst_and_closeness_is_passed_on() -> None:
    first, last = photo("a", "0" * 16, 0), photo("c", "f" * 16, 1)
    middle = replace(photo("b", "a" * 16), embedding=(AXES[0] + AXES[1]) / np.float32(np.sqrt(2)))
    assert near_duplicate_groups([first, middle, last], burst=0.7) == [("a", "b", "c")]
    assert near_duplicate_groups([first, middle, last], burst=0.71) == [("a",), ("b",), ("c",)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12), st.integers(0, 99))
def test_groups_are_a_partition_that_order_does_not_change(facts: list[tuple[int, int]], seed: int) -> None:
    photos = [
        photo(f"{index:02d}", f"{2**kind - 1:016x}" if kind < 2 else f"{kind}" * 16, direction)
        for index, (kind, direction) in enumerate(facts)
    ]
    groups = near_duplicate_groups(photos, burst=0.97)
    assert sorted(name for group in groups for name in group) == [photo.name for photo in photos]
    random.Random(seed).shuffle(photos)
    assert near_duplicate_groups(photos, burst=0.97) == groups
