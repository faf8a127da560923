"""What photos show and lack: counted, sides taken together, said for a whole run."""

from typing import Any

from trainer.faces.attributes import VOCABULARY
from trainer.prepare.coverage import WANTED, coverage, lacks


def test_words_are_counted_most_frequent_first() -> None:
    shown = coverage([["smiling", "dark"], ["dark"], []])
    assert list(shown.items()) == [("dark", 2), ("smiling", 1)]


def test_one_side_is_enough_and_every_wanted_word_exists() -> None:
    everything = {names[-1]: 1 for names in WANTED.values()}
    assert lacks(everything) == []
    assert lacks(everything | {"turned right": 0}) == ["the head turned to a side"]
    assert lacks({}) == list(WANTED)
    assert all(name in VOCABULARY for names in WANTED.values() for name in names)


def test_a_run_says_what_its_photos_show(trained: dict[str, Any]) -> None:
    facts = trained["result"]["stages"]["1_prepare"]
    assert sum(facts["shows"].get(word, 0) for word in ("facing front", "turned left", "turned right")) == facts["fit"]
    assert facts["lacks"] == lacks(facts["shows"])
