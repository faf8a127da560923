"""How every command ends: with its exit code, one envelope with --json, and nothing hidden."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from trainer.console import Console
from trainer.errors import Interrupted, MissingPartError, TrainerError
from trainer.processes import index

Work = Callable[[Console], dict[str, Any]]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one value: section.key=value.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON envelope on stdout.")]


def carry_out(command: str, json: bool, work: Work, follow: Callable[[Console], None] | None = None) -> None:
    """Call the work and leave with its exit code; with --json say everything in one envelope.

    Of several processes the first does so; the others call `follow`, where there is one, and keep silent.
    """
    if index():
        _follow(follow)
    console = Console(json_only=json)
    error: TrainerError | None = None
    result: dict[str, Any] | None = None
    try:
        result = work(console)
    except TrainerError as problem:
        error, result = problem, problem.result
    except KeyboardInterrupt:
        error = Interrupted("stopped; every finished step is kept", "run the same command again: it resumes")
    except Exception as bug:
        error = _out_of_memory(bug)
        if error is None:
            traceback.print_exc()
            error = TrainerError(f"a bug: {bug}", "report it with the lines above; what was finished is kept")
    if error:
        console.error(error)
    console.envelope(command, result, error)
    raise typer.Exit(error.exit_status if error else 0)


def _follow(follow: Callable[[Console], None] | None) -> NoReturn:
    """Leave with the exit code of `follow`; what the first process meets too, it says."""
    status = 0
    try:
        if follow:
            follow(Console(quiet=True))
    except (KeyboardInterrupt, Interrupted):
        status = Interrupted.exit_status
    except TrainerError as error:
        status = error.exit_status
        if isinstance(error, MissingPartError):
            Console().error(error)
    except Exception as bug:
        short = _out_of_memory(bug)
        status = short.exit_status if short else 1
        Console().error(short or TrainerError(f"a bug in process {index()}: {bug}"))
        if not short:
            traceback.print_exc()
    raise typer.Exit(status)


def _out_of_memory(bug: Exception) -> TrainerError | None:
    """The error to show when memory ran out, on the GPU or beside it."""
    said = str(bug).lower()
    if isinstance(bug, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
        hint = "lower fit.batch_size or evaluate.batch_size, e.g. --set fit.batch_size=2"
        return MissingPartError(f"not enough memory: {(str(bug).splitlines() or ['MemoryError'])[0]}", hint)
    return None
