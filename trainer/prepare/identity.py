"""Is every photo of the same person? The gate's consensus decides, with a threshold fitted on the album itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.faces.base import cosine_matrix
from trainer.records import Floats

# Cosines above `same_person`, found with scripts/bench/strangers.py: how close look-alikes are, and how far up the
# threshold may go where the album has a gap there.
LOOK_ALIKE, BAND = 0.2, 0.25
ROUNDS = 2


def likeness_and_threshold(embeddings: Sequence[Floats], same_person: float) -> tuple[Floats, float]:
    """(n,) cosines to the mean of those who are kept, and the cosine from which they are.

    The mean is first that of the largest group of look-alikes, then of those above the threshold.
    """
    vectors = np.asarray(embeddings, np.float32)
    likeness, threshold = similarity_to_consensus(embeddings, same_person + LOOK_ALIKE), same_person
    for _ in range(ROUNDS):
        threshold = widest_gap(likeness, same_person, same_person + BAND)
        kept = vectors[likeness >= threshold]
        if not len(kept):
            return likeness, same_person
        mean = kept.mean(0)
        likeness = (vectors @ (mean / np.linalg.norm(mean))).astype(np.float32)
    return likeness, threshold


def widest_gap(likeness: Floats, low: float, high: float) -> float:
    """The middle of the widest stretch between `low` and `high` in which no value lies."""
    inside = np.sort(likeness[(likeness > low) & (likeness < high)])
    bounds = np.concatenate([[low], inside, [high]])
    widest = int(np.diff(bounds).argmax())
    return float(bounds[widest] + bounds[widest + 1]) / 2


def similarity_to_consensus(embeddings: Sequence[Floats], look_alike: float) -> Floats:
    """(n,) cosine of each (d,) unit vector to the mean of the largest group of look-alikes.

    The group is that of the photo with most others above `look_alike`; ties go to the closer group.
    """
    alike = cosine_matrix(embeddings, embeddings)
    neighbours = alike >= look_alike
    centre = int(np.argmax(neighbours.sum(1) + alike.mean(1) / 2))
    mean = np.asarray(embeddings)[neighbours[centre]].mean(0)
    result: Floats = (np.asarray(embeddings) @ (mean / np.linalg.norm(mean))).astype(np.float32)
    return result
