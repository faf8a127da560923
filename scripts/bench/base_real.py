"""The real pictures that a base was and was not trained on, with what their sources say of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from captions import GROUP_WORDS, SEX_WORDS, load_words
from distances import Pool
from pictures import held_out_split, load_pixels, numbered, one_each_first, read_pictures


@dataclass(frozen=True, slots=True)
class Real:
    """Pictures in the order in which they are read.

    Attributes:
        pixels: (n, 128, 128, 3) uint8, memory-mapped.
        words: class word and attributes of each, as the training captions have them.
        facts: what the source says of each: sex, expression, group.
        kinds: (n,) the source.
        people: (n,) a number of each person, of its own for each picture whose person is not known.
        trained: indices in random order, one picture of everybody before anybody's second.
        held_out: indices of one picture of each person held out, in random order.
    """

    pixels: np.ndarray
    words: list[list[str]]
    facts: list[dict[str, str]]
    kinds: np.ndarray
    people: np.ndarray
    trained: np.ndarray
    held_out: np.ndarray

    def pool(self, rows: np.ndarray, vectors: np.ndarray) -> Pool:
        """The pictures `rows` with a face, whose vectors are `vectors`."""
        found = vectors.any(1)
        return Pool(vectors[found], self.people[rows][found], self.kinds[rows][found])

    def labels(self, index: int) -> tuple[str, ...]:
        """Class word and group of one picture, where the source says them."""
        facts = self.facts[index]
        sex = SEX_WORDS.get(facts.get("sex", ""))
        return tuple(label for label in (sex, facts.get("group")) if label in ("man", "woman", *GROUP_WORDS))


def read_real(pictures: Path, cache: Path) -> Real:
    """Read the folder as the trainings do; `cache` holds, or gets, their `pixels.npy` and `words.json`."""
    pixels = load_pixels(pictures, cache / "pixels.npy")
    words = load_words(pictures, pixels, cache / "words.json")
    told = [(picture.source, picture.person, picture.facts) for picture in read_pictures(pictures)]
    if not len(pixels) == len(words) == len(told):
        raise SystemExit(f"{cache}: pixels.npy and words.json are not those of {pictures}")
    people = numbered([(source, person) for source, person, _ in told])
    split = held_out_split(people)
    return Real(
        pixels,
        words,
        [facts for _, _, facts in told],
        np.array([source for source, _, _ in told]),
        people,
        one_each_first(np.random.default_rng(1).permutation(split.train), people),
        split.held_out,
    )
