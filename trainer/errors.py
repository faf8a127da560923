"""What can go wrong, and what the user is told.

TrainerError            code, exit status, message, hint
├── UsageError          2    wrong arguments
├── RecipeError         2    a recipe that cannot be used; lists every problem at once
├── SubjectError        2    a subject name that is not a plain identifier
├── DivergedError       2    the loss is no longer a number: the recipe cannot be used on these photos
├── PhotosError         3    the photos cannot be used
├── MissingPartError    4    weights, an extra, memory or disk space is missing
│   └── NotReady        4    the machine lacks something that every run needs
├── GateMissed          5    the adapter is written, but scored below the recipe's gate
├── SomeFailed          -    subjects of a batch, with the exit status of the first
├── IntegrityError      6    a hash, a lock or the export parity does not hold
└── Interrupted         130  stopped by the user, or with a process of the same run; the same command resumes
"""

from __future__ import annotations

from typing import Any


class TrainerError(Exception):
    """Base of every expected failure; anything else that escapes is a bug (exit 1).

    Args:
        message: what was found, and where (file, key, stage).
        hint: what to do next, as the user would type it.
        result: what the command has to say all the same.
    """

    code = "error"
    exit_status = 1

    def __init__(self, message: str, hint: str = "", result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.result = result

    def told(self) -> dict[str, str]:
        """What an envelope says of it."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class UsageError(TrainerError):
    """Raise this when the command's arguments do not make sense together."""

    code, exit_status = "usage", 2


class RecipeError(TrainerError):
    """Raise this once with every problem of a recipe, each with its file and line."""

    code, exit_status = "recipe", 2

    def __init__(self, problems: list[str], hint: str = "trainer recipe show lists every key with its unit") -> None:
        super().__init__("\n".join(problems), hint)
        self.problems = problems


class SubjectError(TrainerError):
    """Raise this when a subject's name could build a path or is not a plain identifier."""

    code, exit_status = "subject", 2


class PhotosError(TrainerError):
    """Raise this when no training can follow from the photos given."""

    code, exit_status = "photos", 3


class MissingPartError(TrainerError):
    """Raise this when a model file, an extra, memory or disk space is missing."""

    code, exit_status = "missing", 4


class NotReady(MissingPartError):
    """Raise this when the machine lacks something that every run needs; `result` is all that was found."""

    code = "not-ready"


class DivergedError(TrainerError):
    """Raise this when the loss is no longer a number: the recipe's rates do not suit the photos."""

    code, exit_status = "diverged", 2


class GateMissed(TrainerError):
    """Raise this after the export when the likeness is below `evaluate.gate`; `result` is the run's summary."""

    code, exit_status = "gate", 5


class IntegrityError(TrainerError):
    """Raise this when a file is not what its hash, lock or reload says it must be."""

    code, exit_status = "integrity", 6


class SomeFailed(TrainerError):
    """Raise this after a batch of which some subjects ended with an error; `exit_status` is that of the first."""

    code, exit_status = "some-failed", 1

    def __init__(self, message: str, exit_status: int, outcomes: dict[str, dict[str, Any]]) -> None:
        super().__init__(message, "the same command again skips what is done", {"subjects": outcomes})
        self.exit_status = exit_status


class Interrupted(TrainerError):
    """Raise this when the user or the end of another process stopped the run; every finished step is kept."""

    code, exit_status = "interrupted", 130
