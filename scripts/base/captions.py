"""Captions of the base's training pictures, from what their source says and what is measured in them."""

from __future__ import annotations

import json
import math
import shutil
import string
from pathlib import Path

import numpy as np
from ages import AGE_WORDS, age_word
from kept_faces import ages_in, words_in
from pictures import read_pictures

from trainer.faces.attributes import VOCABULARY
from trainer.weights import NEW_BASE, cache_folder, fetch, needed

SEX_WORDS = {"male": "man", "female": "woman"}
EXPRESSION_WORDS = {
    "happiness": "smiling",
    "neutral": "neutral expression",
    "surprise": "surprised",
    "anger": "angry",
    "sadness": "sad",
}
GROUP_WORDS = ("white", "latino", "asian", "black")  # as the AI-made pictures' source labels them
SURE = 0.9  # probability from which a guessed sex is said
CLEAR_YEARS = (5, 1)  # so much less, so much more must be the same word: behind the autoencoder faces look younger


def known_words(facts: dict[str, str], years: float, man: float) -> list[str]:
    """What the source says of one picture: class word first, then age and group, but not the expression.

    What it does not say of sex and age is as guessed, `years` and the probability `man` of 0 to 1, where that is clear.
    """
    return [
        SEX_WORDS.get(facts.get("sex", "")) or guessed_sex(man),
        *([age_word(int(facts["age"]))] if "age" in facts else guessed_age(years)),
        *([facts["group"]] if "group" in facts else []),
    ]


def guessed_sex(man: float) -> str:
    """`man` or `woman` where that is sure, else `person`."""
    return "man" if man >= SURE else "woman" if man <= 1 - SURE else "person"


def guessed_age(years: float) -> list[str]:
    """The age word, unless the guess is too near to another's ages."""
    less, more = CLEAR_YEARS
    words = {age_word(years - less), age_word(years + more)}
    return list(words) if len(words) == 1 and not math.isnan(years) else []


def caption(words: list[str], rng: np.random.Generator) -> str:
    """A caption with some attributes left out, none to all of them; empty in 10% of cases, for guidance.

    In 20% a made-up word stands before the class word, so that a word the base never saw starts out neutral.
    """
    if rng.random() < 0.1:
        return ""
    who = words[0] if rng.random() < 0.85 else "person"
    if rng.random() < 0.2:
        who = "".join(rng.choice(list(string.ascii_lowercase), size=rng.integers(3, 6))) + " " + who
    share = rng.random()
    kept = [word for word in words[1:] if rng.random() < share]
    return ", ".join([f"photo of {who}", *kept])


def load_words(pictures: Path, pixels: np.ndarray, cache: Path, rows: np.ndarray | None = None) -> list[list[str]]:
    """Each picture's class word and attributes: what its source says, then what is measured in it.

    `pixels` are of all pictures, or of those `rows`. What was measured is kept beside `cache` while it is made.
    """
    if not cache.exists():
        fetch(cache_folder(), files=needed(NEW_BASE))
        everything = [picture.facts for picture in read_pictures(pictures)]
        told = everything if rows is None else [everything[row] for row in rows]
        expressions = [EXPRESSION_WORDS.get(facts.get("expression", "")) for facts in told]
        parts = cache.with_suffix("")
        measured = words_in(pixels, cache_folder(), parts, expressions)
        guessed = ages_in(pixels, cache_folder(), parts)
        known = [known_words(facts, *guess) for facts, guess in zip(told, guessed.tolist(), strict=True)]
        words = [said + read for said, read in zip(known, measured, strict=True)]
        cache.with_suffix(".part").write_text(json.dumps(words))
        cache.with_suffix(".part").replace(cache)
        shutil.rmtree(parts)
    loaded: list[list[str]] = json.loads(cache.read_text())
    return loaded


def vocabulary() -> list[str]:
    """Every word the grammar can say, plus words that users' prompts are made of."""
    said = "photo of a an the man woman person and with in on two people portrait picture " + " ".join(
        [*EXPRESSION_WORDS.values(), *VOCABULARY, *AGE_WORDS, *GROUP_WORDS]
    )
    more = (
        "wearing hat glasses suit shirt red blue green dark bright light soft hard left right front looking facing "
        "outdoors indoors beach city office studio background close-up painting drawing sketch style"
    )
    return sorted(set(said.replace("-", " - ").split() + more.replace("-", " - ").split()))
