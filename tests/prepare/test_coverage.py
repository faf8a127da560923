"""What photos show and lack: counted, sides taken together, said for a whole run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.faces.attributes import VOCABULARY
from trainer.prepare.coverage import DAY_S, WANTED, coverage, lacks
from trainer.records import Face, Photo


def test_words_are_counted_most_frequent_first() -> None:
    shown = coverage([["smiling", "dark"], ["dark"], []])
    assert list(shown.items()) == [("dark", 2), ("smiling", 1)]


def test_one_side_is_enough_and_every_wanted_word_exists() -> None:
    everything = {names[-1]: 1 for names in WANTED.values()}
    assert lacks(everything) == []
    assert lacks(everything | {"turned right": 0}) == ["the head turned to a side"]
    assert lacks({}) == list(WANTED)
    assert all(name in VOCABULARY for names in WANTED.values() for name in names)


def photo(yaw: float, pitch: float, second: int | None) -> Photo:
    face = Face((0, 0, 1, 1), np.zeros((5, 2), np.float32), 1.0)
    measured = {"yaw_deg": yaw, "pitch_deg": pitch}
    return Photo("a", Path("a"), "", "", second, face, np.zeros(1, np.float32), (0, 0, 1), measured)


@pytest.mark.parametrize(
    ("photos", "missing"),
    [
        ([photo(-31, 0, 10), photo(0, -16, 10 + DAY_S)], []),
        ([photo(29, 0, 10), photo(0, -16, 10 + DAY_S)], ["a half profile"]),
        ([photo(31, 14, 10), photo(0, -14, 10 + DAY_S)], ["the head raised or lowered"]),
        ([photo(31, 16, 10), photo(0, 0, 20)], ["another day"]),
        ([photo(31, 16, 10), photo(0, 0, None)], []),  # nobody knows
    ],
)
def test_numbers_of_the_photos_say_what_words_do_not(photos: list[Photo], missing: list[str]) -> None:
    everything = {names[-1]: 1 for names in WANTED.values()}
    assert lacks(everything, photos) == missing


def test_a_run_says_what_its_photos_show(trained: dict[str, Any]) -> None:
    facts = trained["result"]["stages"]["1_prepare"]
    assert sum(facts["shows"].get(word, 0) for word in ("facing front", "turned left", "turned right")) == facts["fit"]
    assert facts["lacks"] == [*lacks(facts["shows"]), "a half profile", "the head raised or lowered"]
