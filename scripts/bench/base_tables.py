"""The sections of the base's benchmark as markdown, from what was already seen in the pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ages import AGE_WORDS, age_word
from base_samples import Asked
from check_autoencoder import Measured
from distances import NEIGHBOURS, Nearness, Pool, frechet, precision_recall

AXES = {
    "age": AGE_WORDS,
    "expression": ("smiling", "neutral expression"),
    "pose": ("facing front", "turned left", "turned right"),
    "framing": ("close-up", "medium shot", "wide shot"),
    "light": ("even light", "light from the left", "light from the right"),
    "brightness": ("dark", "bright"),
    "background": ("plain background", "busy background"),
    "color": ("black and white", "color photo"),
}
SOURCE_EXPRESSION = {"happiness": "smiling", "neutral": "neutral expression"}
SOURCE_COLOR = {"lfw": "black and white", "synthetic": "color photo", "portrait-cc0": "color photo"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in pictures: (n, d) vectors of both engines, zero without a face, and words, age included."""

    judge: np.ndarray
    gate: np.ndarray
    words: list[list[str]]

    @property
    def found(self) -> np.ndarray:
        """(n,) whether there is a face."""
        return self.judge.any(1)

    def rows(self, chosen: np.ndarray) -> Seen:
        """A part of it, by index."""
        return Seen(self.judge[chosen], self.gate[chosen], [self.words[index] for index in chosen])

    def pairs(self) -> np.ndarray:
        """(n,) judge cosine of every two of the faces."""
        vectors = self.judge[self.found]
        return (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]


def rows(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [list(head), ["---"] * len(head), *([str(cell) for cell in line] for line in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(hits: Sequence[bool] | np.ndarray) -> str:
    """`94.0% of 50`, or a dash for none."""
    return f"{np.mean(hits):.1%} of {len(hits)}" if len(hits) else "-"


def followed(asked: Sequence[Asked], words: Sequence[Sequence[str]]) -> dict[str, list[bool]]:
    """By word, whether the pictures that were asked to show it did; none where no face was found."""
    shown: dict[str, list[bool]] = defaultdict(list)
    for one, read in zip(asked, words, strict=True):
        for word in one.expects:
            shown[word].append(word in read)
    return shown


def flat(shown: dict[str, list[bool]]) -> list[bool]:
    return [ok for oks in shown.values() for ok in oks]


def by_word(labels: Sequence[Sequence[str]], right: Sequence[bool | None]) -> dict[str, list[bool]]:
    """What is known of `right`, by class word, the first of a picture's labels."""
    known: dict[str, list[bool]] = defaultdict(list)
    for label, ok in zip(labels, right, strict=True):
        if ok is not None:
            known[label[0]].append(ok)
    return known


def steering(asked: Sequence[Asked], seen: Seen, sexes: Sequence[bool | None]) -> str:
    """Prompts followed, by axis: of those that ask for one word, and of training captions, which ask for many.

    `sexes` says of each sample whether its sex is as asked; None where none was asked for or no face was found.
    """
    shown: list[dict[str, list[bool]]] = []
    for captioned in (False, True):
        chosen = [index for index, one in enumerate(asked) if one.captioned == captioned]
        words = followed([asked[index] for index in chosen], [seen.words[index] for index in chosen])
        sex = by_word([asked[index].labels for index in chosen], [sexes[index] for index in chosen])
        shown.append(words | {"": flat(words)} | sex)
    axes = {"all of the probe's words": ("",), "sex": ("man", "woman"), **AXES}
    body = [
        (f"{axis}: {word}" if word else axis, *(share(part.get(word, [])) for part in shown))
        for axis, words in axes.items()
        for word in words
    ]
    return rows(("prompt followed", "asked alone", "in a training picture's caption"), body)


@dataclass(frozen=True, slots=True)
class Distance:
    """Of `size` faces from as many others: judge's space first, then the gate's."""

    size: int
    frechet: tuple[float, float]
    precision: tuple[float, float]
    recall: tuple[float, float]


def distance(real: Seen, other: Seen, size: int) -> Distance | None:
    """Between the first `size` faces of both, or as many as both have; None for too few to measure anything."""
    size = min(size, int(real.found.sum()), int(other.found.sum()))
    if size <= NEIGHBOURS:
        return None
    pairs = [
        (a[real.found][:size], b[other.found][:size]) for a, b in ((real.judge, other.judge), (real.gate, other.gate))
    ]
    judge, gate = (precision_recall(a, b) for a, b in pairs)
    apart = frechet(*pairs[0]), frechet(*pairs[1])
    return Distance(size, apart, (judge[0], gate[0]), (judge[1], gate[1]))


def distances(held_out: Seen, others: dict[str, Seen], size: int) -> str:
    """Everything against held-out real pictures, at equal sizes; last, the two halves of these."""
    half = size // 2
    measured = {name: distance(held_out, other, size) for name, other in others.items()}
    measured["one half of them against the other"] = distance(
        held_out.rows(np.arange(half)), held_out.rows(np.arange(half, 2 * half)), half
    )
    body = [[name, *(_cells(one) if one else ["-"] * 7)] for name, one in measured.items()]
    return rows(
        ("against held-out real pictures", "faces of each", "Fréchet, judge", "precision", "recall", "Fréchet, gate",
         "precision", "recall"), body)  # fmt: skip


def _cells(one: Distance) -> list[str]:
    spaces = zip(one.frechet, one.precision, one.recall, strict=True)
    return [str(one.size), *(cell for f, p, r in spaces for cell in (f"{f:.3f}", f"{p:.2f}", f"{r:.2f}"))]


def memorised(near: Nearness, held_out: Pool, trained: Pool, closest: float, samples: int, draws: int) -> str:
    """The nearest training face beside the nearest face that was never trained on."""
    people = len(held_out.people)
    (low, high), (less, more) = near.trained_interval, near.difference_interval
    kinds = ", ".join(f"{n} {kind}" for kind, n in zip(*np.unique(held_out.kinds, return_counts=True), strict=True))
    body = [
        ("held out", f"{near.held_out:.4f}", "", f"{near.held_out_p99:.3f}"),
        ("trained on", f"{near.trained:.4f}", f"{low:.4f} to {high:.4f}", f"{near.trained_p99:.3f}"),
        ("trained on, less held out", f"{near.trained - near.held_out:+.4f}", f"{less:+.4f} to {more:+.4f}",
         f"{near.trained_p99 - near.held_out_p99:+.3f}"),
    ]  # fmt: skip
    table = rows(("nearest real face of a sample", "mean cosine", "95%", "99th percentile of samples"), body)
    return (
        f"{table}\n\n{samples} samples. Each pool: {people} people, one face each ({kinds}); the held-out ones are in "
        "no training picture as far as the source names people. "
        f"{draws} such pools were drawn of {len(trained.people)} training faces; {near.above:.0%} of them come no "
        "closer to the samples than the held-out pool. "
        f"The closest of all training faces to any sample: {closest:.3f}."
    )


def skew(
    asked: Sequence[Asked],
    seen: Seen,
    sexes: Sequence[bool | None],
    kept: Sequence[tuple[tuple[str, ...], Measured | None]],
) -> str:
    """By sex and group: faces found and prompts followed in samples, what the autoencoder keeps of held-out people."""
    body = []
    for label in dict.fromkeys(label for one in asked for label in one.labels):
        chosen = [index for index, one in enumerate(asked) if label in one.labels]
        shown = followed([asked[index] for index in chosen], [seen.words[index] for index in chosen])
        real = [measured for labels, measured in kept if label in labels]
        cosines = [measured[0] for measured in real if measured]
        known = [ok for ok in (sexes[index] for index in chosen) if ok is not None]
        body.append((
            label, share(seen.found[chosen]), share(flat(shown)), share(known),
            share([measured is not None for measured in real]),
            f"{np.mean(cosines):.3f}" if cosines else "-", f"{np.quantile(cosines, 0.05):.3f}" if cosines else "-",
        ))  # fmt: skip
    head = ("asked for", "face found", "prompt followed", "sex as asked", "real, held out: face found")
    return rows((*head, "autoencoder's cosine", "5th percentile"), body)


def probe(
    words: Sequence[Sequence[str]],
    again: dict[str, Sequence[Sequence[str]]],
    facts: Sequence[dict[str, str]],
    kinds: Sequence[str],
    sexes: dict[str, list[bool]],
) -> str:
    """The probe against the sources' labels, and against itself where it reads the same pictures `again`.

    A word that it does not find again in a real picture cannot be found in a sample every time either.
    """
    labelled: dict[str, list[bool]] = {f"sex: {word}": oks for word, oks in sexes.items()}
    for read, told, kind in zip(words, facts, kinds, strict=True):
        truths = {
            "age": age_word(int(told["age"])) if "age" in told else None,
            "expression": SOURCE_EXPRESSION.get(told.get("expression", "")),
            "color": SOURCE_COLOR.get(kind),
        }
        for axis, truth in truths.items():
            if truth and read:
                labelled.setdefault(f"{axis}: {truth}", []).append(truth in read)
    found = {f"{axis}: {word}": word for axis, shown in AXES.items() for word in shown}
    body = [
        (name, share(labelled.get(name, [])), *(share(found_again(found.get(name), words, o)) for o in again.values()))
        for name in sorted({*labelled, *found})
    ]
    return rows(("probe on held-out real pictures", "as the source says", *again), body)


def found_again(word: str | None, words: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> list[bool]:
    """Of the pictures in which `word` was read, whether it was read in their other versions, where both show a face."""
    return [word in b for a, b in zip(words, other, strict=True) if b and word in a]
