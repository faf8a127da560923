"""Which checkpoint to export, and how strong, by the gate on the select photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint's numbers; `identity`, `of_ceiling` and `copying` are the gate's.

    `prompt` is 0 to 1 (CLIPScore: to 2.5), None where the prompts ask for nothing that can be measured.
    """

    step: int
    identity: float
    prompt: float | None
    copying: float
    of_ceiling: float | None = None
    strength: float = 1.0  # as of `trainer.records.Checkpoint`

    @property
    def score(self) -> float:
        """identity x prompt; a likeness below 0 counts as none, and without a prompt score the likeness decides."""
        return max(0.0, self.identity) * (1.0 if self.prompt is None else self.prompt)


def choose(candidates: Sequence[Candidate], copying_limit: float) -> Candidate:
    """The highest identity x prompt among those below the copying limit; among all where none is below it.

    Ties go to the earlier checkpoint, since less training copies less, and then to the stronger one.
    """
    honest = [candidate for candidate in candidates if candidate.copying <= copying_limit]
    return max(honest or candidates, key=lambda c: (c.score, -c.step, c.strength))
