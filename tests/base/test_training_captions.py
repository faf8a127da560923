"""Training captions: what they leave out, and in which order they say the rest."""

import numpy as np
from captions import GROUP_WORDS, caption, vocabulary

WORDS = ["woman", "young", "asian", "smiling", "black and white"]


def captions_of(words: list[str]) -> list[str]:
    """What a training says of one picture over many steps."""
    return [caption(words, np.random.default_rng(seed)) for seed in range(400)]


def test_a_tenth_of_the_captions_is_empty_for_guidance() -> None:
    empty = np.mean([not text for text in captions_of(WORDS)])
    assert 0.05 < empty < 0.16  # three standard deviations of 400


def test_every_attribute_is_left_out_at_times_and_none_is_put_elsewhere() -> None:
    said = [text.split(", ")[1:] for text in captions_of(WORDS) if text]
    assert all(some == [word for word in WORDS if word in some] for some in said)
    assert all(0 < sum(word in some for some in said) < len(said) for word in WORDS[1:])
    assert WORDS[1:] in said
    assert [] in said


def test_some_captions_begin_with_a_word_that_was_made_up() -> None:
    made_up = [text for text in captions_of(["man"]) if text and text not in ("photo of man", "photo of person")]
    assert 0.1 < len(made_up) / 400 < 0.28
    assert len(set(made_up)) > 0.9 * len(made_up)
    assert all(text.split()[-1] in ("man", "person") for text in made_up)


def test_every_group_is_a_word_of_its_own() -> None:
    assert set(GROUP_WORDS) <= set(vocabulary())
