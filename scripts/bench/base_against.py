"""The sections of the base's benchmark that need the real pictures, trained on and held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import base_tables as tables
import numpy as np
from ages import age_word
from base_real import Real
from base_samples import Asked
from check_autoencoder import kept, published_autoencoder, restored
from distances import nearness, one_a_person
from kept_faces import ages_in, embedded, words_in
from train_probe import two_sided

from trainer.faces.attributes import mirrored
from trainer.records import RGB
from trainer.weights import cache_folder

DRAWS = 200
SEXES = {"man": False, "woman": True}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What every section looks at.

    Attributes:
        asked, seen: the samples.
        real: all real pictures.
        held_out: indices, and what was `looked` at in them.
        decoded: the held-out pictures through the autoencoder.
        trained: indices, and the judge's (n, d) `vectors` of them.
        base: pipeline folder.
        cache: folder of what was seen.
    """

    asked: list[Asked]
    seen: tables.Seen
    real: Real
    held_out: np.ndarray
    looked: tables.Seen
    decoded: np.ndarray
    trained: np.ndarray
    vectors: np.ndarray
    base: Path
    cache: Path


def look(pictures: Sequence[RGB], cache: Path) -> tables.Seen:
    """Both engines' vectors and the probe's words."""
    judge, gate = (embedded(pictures, engine, cache_folder(), cache) for engine in ("onnx", "dlib"))
    return tables.Seen(judge, gate, words_of(pictures, cache))


def words_of(pictures: Sequence[RGB], cache: Path) -> list[list[str]]:
    """The probe's words of each picture, and its age's; none without a face."""
    years = ages_in(pictures, cache_folder(), cache)[:, 0].tolist()
    read = words_in(pictures, cache_folder(), cache)
    return [[*words, age_word(age)] if words else [] for words, age in zip(read, years, strict=True)]


def gather(
    asked: list[Asked], seen: tables.Seen, real: Real, base: Path, cache: Path, held_out: int, trained: int | None
) -> Evidence:
    """Look at `held_out` and `trained` (None: all) of the real pictures."""
    outside, inside = real.held_out[:held_out], real.trained[:trained]
    originals = real.pixels[outside]
    return Evidence(
        asked, seen, real, outside, look(originals, cache), restored(published_autoencoder(base), originals),
        inside, embedded(real.pixels[inside], "onnx", cache_folder(), cache), base, cache,
    )  # fmt: skip


def distances(evidence: Evidence) -> tuple[str, dict[str, float]]:
    """The table of distances, and for the curve those of the samples and of the autoencoder's floor."""
    real, cache = evidence.real, evidence.cache
    captioned = np.flatnonzero([one.captioned for one in evidence.asked])
    size = min(len(captioned), len(evidence.held_out))
    others = real.pixels[evidence.trained[:size]]
    samples = evidence.seen.rows(captioned)
    against = {
        "samples by captions of real pictures": samples,
        "other real pictures": look(others, cache),
        "other real pictures through the autoencoder": look(
            restored(published_autoencoder(evidence.base), others), cache
        ),
        "the same pictures through the autoencoder": look(evidence.decoded, cache),
    }
    measured = tables.distance(evidence.looked, samples, size)
    floor = tables.distance(evidence.looked, against["other real pictures through the autoencoder"], size)
    table = tables.distances(evidence.looked, against, size)
    if measured is None or floor is None:
        return table, {}
    return table, {
        "floor_judge": floor.frechet[0], "floor_gate": floor.frechet[1],
        "faces": measured.size, "frechet_judge": measured.frechet[0], "frechet_gate": measured.frechet[1],
        "recall_judge": measured.recall[0], "recall_gate": measured.recall[1],
    }  # fmt: skip


def memorisation(evidence: Evidence) -> tuple[str, dict[str, float]]:
    """The table of nearest faces, and the difference for the curve."""
    real, rng = evidence.real, np.random.default_rng(0)
    held_out = one_a_person(real.pool(evidence.held_out, evidence.looked.judge), rng)
    trained = real.pool(evidence.trained, evidence.vectors)
    samples = evidence.seen.judge[evidence.seen.found]
    if not len(samples) or not len(held_out.people):
        return "Memorisation: no face in the samples or in the held-out pictures.", {}
    try:
        near = nearness(samples, trained, held_out, DRAWS, rng)
    except ValueError as error:
        raise SystemExit(f"too few training pictures to compare with: {error}; give a larger --trained") from None
    closest = float((samples @ trained.vectors.T).max())
    figures = {"trained_less_held_out": near.trained - near.held_out}
    return tables.memorised(near, held_out, trained, closest, len(samples), DRAWS), figures


def skew(evidence: Evidence, sexes: list[bool | None]) -> str:
    """The table by sex and group."""
    real, rows = evidence.real, evidence.held_out
    measured = kept(real.pixels[rows], evidence.decoded)
    labelled = [(real.labels(index), one) for index, one in zip(rows, measured, strict=True)]
    return tables.skew(evidence.asked, evidence.seen, sexes, labelled)


def probe(evidence: Evidence, line: np.ndarray) -> str:
    """The table of the probe's own accuracy; `line` tells the sexes."""
    real, rows = evidence.real, evidence.held_out
    labels = [real.labels(index) for index in rows]
    sexes = tables.by_word(labels, sexes_right(line, evidence.looked.judge, labels))
    again = {
        "read again in a mirror": [
            mirrored(words) for words in words_of(real.pixels[rows][:, :, ::-1], evidence.cache)
        ],
        "through the autoencoder": words_of(evidence.decoded, evidence.cache),
    }
    return tables.probe(evidence.looked.words, again, [real.facts[row] for row in rows], list(real.kinds[rows]), sexes)


def sex_line(evidence: Evidence) -> np.ndarray:
    """Weights that tell women from men in the judge's vectors, by the training pictures whose source says it."""
    labels = [evidence.real.labels(index)[:1] for index in evidence.trained]
    known = np.array([bool(label) and label[0] in SEXES for label in labels]) & evidence.vectors.any(1)
    women = np.array([label == ("woman",) for label in labels])
    return two_sided(evidence.vectors[known], women[known])


def sexes_right(line: np.ndarray, vectors: np.ndarray, labels: Sequence[Sequence[str]]) -> list[bool | None]:
    """Whether each face labelled man or woman lies on its side of the line; None for others and without a face."""
    return [
        bool(vector @ line[:-1] + line[-1] > 0) == SEXES[label[0]]
        if label and label[0] in SEXES and vector.any()
        else None
        for vector, label in zip(vectors, labels, strict=True)
    ]
