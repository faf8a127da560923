"""When a fit may end early: its checkpoints are scored as they come, and enough of them in a row are no better."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.fit.checkpoint import find_checkpoints, truncate_lines
from trainer.records import Checkpoint

CHECKS = "checks.jsonl"
Check = Callable[[Checkpoint], float]


@dataclass(frozen=True, slots=True)
class Patience:
    """The score of every checkpoint so far, kept in `folder` so that an interrupted fit stops at the same step.

    Attributes:
        check: how good a checkpoint is, more is better; the same file always gets the same.
        stop_after: checkpoints in a row without a better score that end the fit.
        folder: of the fit.
    """

    check: Check
    stop_after: int
    folder: Path

    def resume(self, step: int) -> None:
        """Forget the scores of later steps: they are made again."""
        truncate_lines(self.folder / CHECKS, step)

    def is_over(self, step: int) -> bool:
        """Score what was saved up to this step and has no score yet; whether the fit should end here."""
        known = _scores(self.folder / CHECKS)
        for checkpoint in find_checkpoints(self.folder):
            if checkpoint.step <= step and checkpoint.step not in known:
                known[checkpoint.step] = self.check(checkpoint)
                with (self.folder / CHECKS).open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"step": checkpoint.step, "score": known[checkpoint.step]}) + "\n")
        return checks_since_best([known[at] for at in sorted(known) if at <= step]) >= self.stop_after


def checks_since_best(scores: Sequence[float]) -> int:
    """How many scores came after the first of the highest ones.

    Early stopping with patience: Prechelt, Early stopping - but when?, 1998, the criteria UP.
    """
    return len(scores) - 1 - max(range(len(scores)), key=lambda index: (scores[index], -index))


def _scores(file: Path) -> dict[int, float]:
    """By step; none before the first check."""
    if not file.is_file():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row["score"] for row in rows}
