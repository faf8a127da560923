"""Is every photo of the same person? The gate's consensus decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.faces.base import cosine_matrix
from trainer.records import Floats


def similarity_to_consensus(embeddings: Sequence[Floats], same_person: float) -> Floats:
    """(n,) cosine of each (d,) unit vector to the mean of the largest group of look-alikes.

    The group is that of the photo with most others above `same_person`; ties go to the closer group.
    """
    alike = cosine_matrix(embeddings, embeddings)
    neighbours = alike >= same_person
    centre = int(np.argmax(neighbours.sum(1) + alike.mean(1) / 2))
    mean = np.asarray(embeddings)[neighbours[centre]].mean(0)
    result: Floats = (np.asarray(embeddings) @ (mean / np.linalg.norm(mean))).astype(np.float32)
    return result
