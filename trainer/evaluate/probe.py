"""Does a picture show what its prompt asked for, and do pictures differ from each other?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import imagehash
import numpy as np
from PIL import Image

from trainer.evaluate.judge import Seen
from trainer.faces.attributes import EXPRESSIONS, AttributeReader
from trainer.records import RGB, Prompt

NAME = "attributes"


def prompt_scores(
    prompts: Sequence[Prompt], pictures: Sequence[Sequence[RGB]], seen: Seen, reader: AttributeReader
) -> list[float | None]:
    """For each prompt the share, 0 to 1, of its expected words found in its pictures; None where it expects none.

    A picture without a face shows nothing that was asked for.
    """
    faces = iter(seen.faces)
    scores: list[float | None] = []
    for prompt, row in zip(prompts, pictures, strict=True):
        shown, smile = [], any(word in EXPRESSIONS for word in prompt.expects)
        for picture in row:
            face = next(faces)
            words = reader.read(picture, face, smile=smile).words() if face is not None and prompt.expects else []
            shown += [float(word in words) for word in prompt.expects]
        scores.append(float(np.mean(shown)) if shown else None)
    return scores


def mean_score(scores: Sequence[float | None]) -> float | None:
    """Mean of the scores that are there; None where there is none."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def diversity(pictures: Sequence[Sequence[RGB]]) -> float | None:
    """Mean share of differing bits, 0 to 1, of the perceptual hashes of one prompt's pictures; None with one seed."""
    distances = []
    for row in pictures:
        hashes = [imagehash.phash(Image.fromarray(picture)) for picture in row]
        distances += [(a - b) / a.hash.size for a, b in combinations(hashes, 2)]
    return float(np.mean(distances)) if distances else None
