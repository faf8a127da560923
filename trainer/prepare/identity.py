"""Is every photo of the same person? The gate's consensus decides, with a threshold fitted on the album itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.faces.base import cosine_matrix
from trainer.records import Floats

# Cosines above `same_person`, found with scripts/bench/strangers.py --half develop: how close look-alikes are, and how
# far up the threshold may go, where the album has a gap there, while the mean is looked for.
LOOK_ALIKE, BAND = 0.2, 0.25
ROUNDS = 2
# How far below the median of the person's own photos the last threshold lies, and how far up or down of there the
# album's gap may be; found in the same way. Any drop from 0.31 to 0.36 does about as well.
DROP, LEEWAY = 0.33, 0.1


@dataclass(frozen=True, slots=True)
class Consensus:
    """Who the person is: the mean of those who are kept, and the cosine to it from which they are.

    Attributes:
        vector: (d,) unit vector.
        gap: width of the stretch around the threshold in which no photo lies.
        whom: in words, whom a photo is compared with.
    """

    vector: Floats
    threshold: float
    gap: float
    whom: str

    def likeness(self, embedding: Floats) -> float:
        """Cosine of a (d,) unit vector to the person."""
        return float(embedding @ self.vector)


def consensus_of(embeddings: Sequence[Floats], same_person: float, anchor: Floats | None = None) -> Consensus:
    """The person of these (d,) unit vectors, or who looks like `anchor`.

    The mean is first that of the largest group of look-alikes, or the anchor; then of those above a lenient threshold,
    and of the anchor. The last threshold is stricter, and measured by how alike the album's own photos are: a person
    whose photos differ much is not held to the likeness of one whose photos do not. A photo that it rejects has still
    pulled the mean its way, so that doubtful ones are not the further out for being doubted.

    Raises ValueError where there is neither a vector nor an anchor.
    """
    vectors = np.asarray(embeddings, np.float32)
    whom = "the other photos" if anchor is None else "the reference photo and the photos like it"
    if anchor is not None and not len(vectors):
        return Consensus(anchor, same_person, BAND, whom)
    mean = largest_group(embeddings, same_person + LOOK_ALIKE) if anchor is None else anchor
    for _ in range(ROUNDS):
        likeness = vectors @ mean
        low, high = widest_gap(likeness, same_person, same_person + BAND)
        kept = vectors[likeness >= (low + high) / 2]
        if not len(kept):
            return Consensus(mean, same_person, BAND, whom)
        mean = _unit(kept.mean(0) if anchor is None else np.concatenate([kept, anchor[None]]).mean(0))
    likeness = vectors @ mean
    usual = float(np.median(likeness[likeness >= (low + high) / 2])) if (likeness >= (low + high) / 2).any() else 1.0
    lowest = max(same_person, usual - DROP - LEEWAY)
    low, high = widest_gap(likeness, lowest, max(lowest + LEEWAY, usual - DROP + LEEWAY))
    return Consensus(mean, (low + high) / 2, high - low, whom)


def widest_gap(likeness: Floats, low: float, high: float) -> tuple[float, float]:
    """The bounds of the widest stretch between `low` and `high` in which no value lies."""
    inside = np.sort(likeness[(likeness > low) & (likeness < high)])
    bounds = np.concatenate([[low], inside, [high]])
    widest = int(np.diff(bounds).argmax())
    return float(bounds[widest]), float(bounds[widest + 1])


def largest_group(embeddings: Sequence[Floats], look_alike: float) -> Floats:
    """(d,) mean direction of the largest group of look-alikes among (d,) unit vectors.

    The group is that of the photo with most others above `look_alike`; ties go to the closer group.
    """
    alike = cosine_matrix(embeddings, embeddings)
    neighbours = alike >= look_alike
    centre = int(np.argmax(neighbours.sum(1) + alike.mean(1) / 2))
    return _unit(np.asarray(embeddings)[neighbours[centre]].mean(0))


def _unit(vector: Floats) -> Floats:
    result: Floats = (vector / np.linalg.norm(vector)).astype(np.float32)
    return result
