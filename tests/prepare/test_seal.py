"""The seal: every photo dealt once, groups whole, enough sealed, and nothing depends on names or order."""

import hashlib
import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.errors import PhotosError
from trainer.prepare.seal import MIN_SEALED, deal
from trainer.records import Split

Groups = list[tuple[str, ...]]
sizes = st.lists(st.integers(1, 4), min_size=6, max_size=40)
shares = st.tuples(st.floats(0, 0.3), st.floats(0, 0.3))


def grouped(sizes: Sequence[int]) -> Groups:
    """Groups of these sizes, of photos called 00.jpg, 01.jpg and so on."""
    names = iter(range(sum(sizes)))
    return [tuple(f"{next(names):02d}.jpg" for _ in range(size)) for size in sizes]


def hashes_of(groups: Groups, salt: int = 0) -> dict[str, str]:
    return {name: hashlib.sha256(f"{salt} {name}".encode()).hexdigest() for group in groups for name in group}


def dealt_or_skipped(groups: Groups, sha256: dict[str, str], shares: tuple[float, float]) -> Split:
    split = deal(groups, sha256, *shares)
    assume(split.report)
    return split


@given(sizes, shares, st.integers(0, 99))
def test_every_photo_is_dealt_once_and_groups_stay_whole(
    sizes: list[int], shares: tuple[float, float], salt: int
) -> None:
    groups = grouped(sizes)
    split = dealt_or_skipped(groups, hashes_of(groups, salt), shares)
    assert sorted(split.fit + split.select + split.report) == sorted(name for group in groups for name in group)
    for group in groups:
        assert len({split.role_of(name) for name in group}) == 1
    assert min(len(split.select), len(split.report)) >= MIN_SEALED
    assert len(split.fit) >= sum(sizes) // 4
    assert split.groups == tuple(sorted(groups))


@given(st.integers(8, 60), shares, st.integers(0, 99))
def test_single_photos_are_always_dealt_as_the_shares_say(count: int, shares: tuple[float, float], salt: int) -> None:
    groups = grouped([1] * count)
    split = deal(groups, hashes_of(groups, salt), *shares)
    assert len(split.select) == max(MIN_SEALED, round(shares[0] * count))
    assert len(split.report) == max(MIN_SEALED, round(shares[1] * count))


@given(sizes, shares, st.randoms(use_true_random=False))
def test_neither_order_nor_names_matter(sizes: list[int], shares: tuple[float, float], shuffler: random.Random) -> None:
    groups = grouped(sizes)
    sha256 = hashes_of(groups)
    split = dealt_or_skipped(groups, sha256, shares)

    shuffled = [tuple(shuffler.sample(group, len(group))) for group in shuffler.sample(groups, len(groups))]
    again = deal(shuffled, sha256, *shares)
    assert (again.fit, again.select, again.report) == (split.fit, split.select, split.report)

    names = list(sha256)
    renamed = dict(zip(names, shuffler.sample(names, len(names)), strict=True))
    moved = deal(
        [tuple(renamed[name] for name in group) for group in groups],
        {renamed[name]: value for name, value in sha256.items()},
        *shares,
    )
    assert {renamed[name] for name in split.report} == set(moved.report)
    assert {renamed[name] for name in split.select} == set(moved.select)


@given(st.integers(10, 40), st.integers(0, 99))
def test_one_more_photo_moves_few_others(count: int, salt: int) -> None:
    groups = grouped([1] * (count + 1))
    sha256 = hashes_of(groups, salt)
    before, after = deal(groups[:-1], sha256, 0.2, 0.2), deal(groups, sha256, 0.2, 0.2)
    moved = [name for (name,) in groups[:-1] if before.role_of(name) != after.role_of(name)]
    assert len(moved) <= 3


@pytest.mark.parametrize("sizes", [[1, 1, 1], [1] * 7, [3, 2, 2], [10, 1, 1], [4, 4, 4]])
def test_where_none_can_be_sealed_all_are_to_fit_on(sizes: list[int]) -> None:
    groups = grouped(sizes)
    split = deal(groups, hashes_of(groups), 0.2, 0.2)
    assert split == Split(tuple(sorted(hashes_of(groups))), (), (), tuple(sorted(groups)))


@pytest.mark.parametrize("groups", [grouped([12]), grouped([6, 6]), grouped([1, 2])])
def test_too_few_different_shots_are_refused(groups: Groups) -> None:
    with pytest.raises(PhotosError, match=f"only {len(groups)} different shots"):
        deal(groups, hashes_of(groups), 0.2, 0.2)


def test_roles_are_told_by_name() -> None:
    split = Split(("a",), ("b",), ("c",), (("a",), ("b",), ("c",)))
    assert [split.role_of(name) for name in "abc"] == ["fit", "select", "report"]
    with pytest.raises(KeyError):
        split.role_of("d")
