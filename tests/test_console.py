"""Words, results and the envelope each go where they belong, whatever is in them."""

import json
import math

import pytest

from trainer.console import Console
from trainer.errors import (
    DivergedError,
    GateMissed,
    IntegrityError,
    Interrupted,
    MissingPartError,
    NotReady,
    PhotosError,
    RecipeError,
    SomeFailed,
    SubjectError,
    TrainerError,
    UsageError,
)

STATUS = {
    TrainerError: 1, UsageError: 2, RecipeError: 2, SubjectError: 2, DivergedError: 2, PhotosError: 3,
    MissingPartError: 4, NotReady: 4, GateMissed: 5, IntegrityError: 6, Interrupted: 130,
    SomeFailed: 1,  # each has that of its first error
}  # fmt: skip


def test_every_error_has_the_contract_s_exit_code_and_a_code_of_its_own() -> None:
    assert {kind: kind.exit_status for kind in STATUS} == STATUS
    assert set(STATUS) == {TrainerError, NotReady, *TrainerError.__subclasses__()}
    assert len({kind.code for kind in STATUS}) == len(STATUS)


def test_names_with_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Console().error(PhotosError("[bold]me[/bold].jpg is bad [/red]", "rename [it]"))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: [bold]me[/bold].jpg is bad [/red]\ntry: rename [it]\n"


def test_with_json_stdout_is_the_envelope_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(json_only=True)
    console.result("a result")
    console.table("a table", [("a", "b")])
    console.say("a word")
    console.envelope("train", {"a": 1}, UsageError("wrong", "right"))
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "schema": 1, "command": "train", "ok": False, "result": {"a": 1},
        "error": {"code": "usage", "message": "wrong", "hint": "right"},
    }  # fmt: skip
    assert said.err == "a word\n"


def test_the_envelope_has_no_numbers_that_are_none() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Console(json_only=True).envelope("train", {"mean": math.nan}, None)


def test_without_a_terminal_progress_is_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    assert list(console.track("abc", "counting", 3)) == ["a", "b", "c"]
    with console.progress("fitting", 2) as tick:
        tick(0, "loss 1")
        tick()
        tick(1, "loss 0.5")
    said = capsys.readouterr().err.splitlines()
    assert said == ["counting: 3/3, 0 s left", "fitting: 2/2, 0 s left loss 0.5"]
