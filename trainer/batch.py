"""Many subjects with one recipe, one after the other: what ends one does not end the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.console import Console
from trainer.errors import Interrupted, SomeFailed, TrainerError, UsageError
from trainer.pipeline import Pipeline, check_gate
from trainer.processes import count
from trainer.recipe import Layered
from trainer.subject import Subject

Outcomes = dict[str, dict[str, Any]]
"""By subject its run's `summary` and its `error`, each None where there is none; a missed gate has both."""


def train_each(
    subjects: Sequence[Subject], layered: Layered, runs: Path, console: Console, fresh: bool = False
) -> Outcomes:
    """`trainer train` of every subject; finished stages are skipped, so that a stopped batch goes on.

    Raises UsageError in a launch of several processes.
    """
    if count() > 1:
        raise UsageError("a batch runs in one process", "launch trainer train for one subject after the other")
    outcomes: Outcomes = {}
    for place, subject in enumerate(subjects, 1):
        console.say(f"{subject.name}: {place} of {len(subjects)}")
        try:
            summary = Pipeline(subject, layered, runs, console, fresh).run()
            check_gate(summary, layered.recipe.evaluate.gate)
            outcomes[subject.name] = {"summary": summary, "error": None}
        except Interrupted:
            raise
        except TrainerError as error:
            console.error(error)
            outcomes[subject.name] = {"summary": error.result, "error": error.told() | {"exit": error.exit_status}}
    return outcomes


def check_each(outcomes: Outcomes) -> None:
    """Raises SomeFailed, with all of them, where any subject ended with an error."""
    failed = [name for name, outcome in outcomes.items() if outcome["error"]]
    if failed:
        first = outcomes[failed[0]]["error"]
        raise SomeFailed(
            f"{len(failed)} of {len(outcomes)} subjects failed: {', '.join(failed)}", first["exit"], outcomes
        )
