"""Who is held out of the base's training: whole people, the same ones every time."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import HELD_OUT, SUBJECT_PHOTOS, SUBJECTS, held_out_split, one_each_first


@st.composite
def albums(draw: st.DrawFn) -> npt.NDArray[np.int64]:
    """The person of each picture, shuffled; some people have as many pictures as an adapter needs."""
    counts = draw(st.lists(st.integers(1, 35), min_size=2, max_size=60))
    people = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(people)


@given(albums())
def test_nobody_is_on_two_sides(people: npt.NDArray[np.int64]) -> None:
    split = held_out_split(people)
    subjects = [set(people[rows].tolist()) for rows in split.subjects]
    sides = [set(people[split.train].tolist()), set(people[split.held_out].tolist()), *subjects]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(people.tolist()))
    assert all(len(side) == 1 for side in subjects)


@given(albums())
def test_held_out_people_show_one_picture_and_subjects_all_of_theirs(people: npt.NDArray[np.int64]) -> None:
    split = held_out_split(people)
    assert len(set(people[split.held_out].tolist())) == len(split.held_out)
    for rows in split.subjects:
        assert np.array_equal(rows, np.flatnonzero(people == people[rows[0]]))
        assert len(rows) in SUBJECT_PHOTOS
    assert len(split.train)
    assert 1 <= len(split.held_out) <= max(1, len(set(people.tolist())) // 10)


def test_the_draw_is_the_same_every_time_and_bounded() -> None:
    people = np.repeat(np.arange(6000), np.where(np.arange(6000) < 40, 22, 1))
    one, other = held_out_split(people), held_out_split(people)
    assert len(one.held_out) == HELD_OUT
    assert len(one.subjects) == SUBJECTS
    assert np.array_equal(one.train, other.train)
    assert np.array_equal(one.held_out, other.held_out)
    assert all(np.array_equal(a, b) for a, b in zip(one.subjects, other.subjects, strict=True))


def test_everybody_comes_before_anybody_comes_twice() -> None:
    people = np.array([7, 7, 8, 7, 9])
    assert one_each_first(np.array([1, 0, 2, 4, 3]), people).tolist() == [1, 2, 4, 0, 3]


def test_one_person_alone_is_refused() -> None:
    with pytest.raises(SystemExit, match="one person alone"):
        held_out_split(np.zeros(5, np.int64))
