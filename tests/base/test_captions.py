"""Training captions: what they leave out, and what they never say alone."""

import numpy as np
from captions import AGE_WORDS, GROUP_WORDS, caption

WORDS = ["woman", "young", "asian", "smiling", "facing front"]


def said(words: list[str]) -> list[list[str]]:
    """The attributes of many captions of one picture, empty ones left out."""
    captions = [caption(words, np.random.default_rng(seed)) for seed in range(400)]
    return [text.split(", ")[1:] for text in captions if text]


def test_a_group_is_never_said_without_the_age() -> None:
    attributes = said(WORDS)
    assert all("young" in some for some in attributes if "asian" in some)
    assert any("young" in some and "asian" not in some for some in attributes)
    assert any("asian" not in some and "young" not in some and some for some in attributes)


def test_a_group_is_said_where_no_age_is_known() -> None:
    attributes = said(["man", "black", "smiling"])
    assert any("black" in some for some in attributes)
    assert not any(set(some) & set(AGE_WORDS) for some in attributes)


def test_attributes_stay_in_the_order_of_the_picture() -> None:
    assert all(some == [word for word in WORDS if word in some] for some in said(WORDS))


def test_black_and_white_is_no_group() -> None:
    attributes = said(["man", "old", "black and white"])
    assert "black and white" not in GROUP_WORDS
    assert any("black and white" in some and "old" not in some for some in attributes)
