"""The choice of a checkpoint: identity times prompt, copying as a veto, the earlier one on a tie."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluate.select import Candidate, choose

numbers = st.floats(-1, 1)
candidates = st.lists(st.tuples(numbers, st.floats(0, 1), numbers), min_size=1, max_size=8).map(
    lambda rows: [Candidate(100 * (index + 1), *row) for index, row in enumerate(rows)]
)


def test_the_best_product_wins() -> None:
    rows = [Candidate(100, 0.5, 0.5, 0.0), Candidate(200, 0.4, 0.9, 0.0), Candidate(300, 0.6, 0.3, 0.0)]
    assert choose(rows, 0.15).step == 200


def test_one_that_copies_is_vetoed_however_alike() -> None:
    rows = [Candidate(100, 0.3, 0.5, 0.15), Candidate(200, 0.9, 0.9, 0.16)]
    assert choose(rows, 0.15).step == 100


def test_where_all_copy_the_best_of_them_is_taken() -> None:
    assert choose([Candidate(100, 0.3, 0.5, 0.5), Candidate(200, 0.9, 0.9, 0.6)], 0.15).step == 200


@pytest.mark.parametrize("identity", [0.4, 0.0, -0.3])
def test_ties_go_to_the_earlier_one(identity: float) -> None:
    rows = [Candidate(step, identity, 0.5, 0.0) for step in (300, 100, 200)]
    assert choose(rows, 0.15).step == 100


def test_of_one_step_alike_the_stronger_one_is_taken() -> None:
    rows = [Candidate(200, 0.4, 0.5, 0.0, strength=strength) for strength in (0.6, 1.0, 0.8)]
    assert choose(rows, 0.15).strength == 1


def test_without_a_prompt_score_the_likeness_decides() -> None:
    assert choose([Candidate(100, 0.3, None, 0.0), Candidate(200, 0.4, None, 0.0)], 0.15).step == 200


@given(candidates, st.floats(0, 1), st.integers(0, 99))
def test_the_order_does_not_matter_and_nothing_honest_is_better(rows: list[Candidate], limit: float, seed: int) -> None:
    chosen = choose(rows, limit)
    assert chosen == choose(random.Random(seed).sample(rows, len(rows)), limit)
    honest = [row for row in rows if row.copying <= limit]
    assert (chosen.copying <= limit) == bool(honest)
    for row in honest:
        assert row.score <= chosen.score
