"""Many subjects: each gets its run, and what ends one does not end the others."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from trainer.batch import train_each
from trainer.console import Console
from trainer.errors import UsageError
from trainer.recipe import load_recipe


def answer(command: Command, home: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = command(home, "batch", "--json", *arguments)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_subject_without_photos_does_not_end_the_batch(
    copied: Path, trained: dict[str, Any], fast: list[str], command: Command
) -> None:
    (copied / "subjects/empty/photos").mkdir(parents=True)
    status, envelope, said = answer(command, copied, "empty", "zelda", "zelda", *fast)
    subjects = envelope["result"]["subjects"]
    assert (status, envelope["ok"], envelope["error"]["code"]) == (3, False, "some-failed")
    assert "1 of 2 subjects failed: empty" in envelope["error"]["message"]
    assert subjects["empty"]["summary"] is None
    assert (subjects["empty"]["error"]["code"], subjects["empty"]["error"]["exit"]) == ("photos", 3)
    assert subjects["zelda"]["error"] is None
    assert subjects["zelda"]["summary"]["reused"] == list(trained["result"]["stages"])
    assert "empty: 1 of 2" in said


def test_a_batch_that_went_well_ends_with_0_and_a_missed_gate_keeps_its_summary(
    copied: Path, fast: list[str], command: Command
) -> None:
    status, envelope, _ = answer(command, copied, "zelda", *fast)
    assert (status, envelope["ok"]) == (0, True)
    status, envelope, _ = answer(command, copied, "zelda", *fast, "--set", "evaluate.gate=0.99")
    outcome = envelope["result"]["subjects"]["zelda"]
    assert status == 5
    assert outcome["error"]["code"] == "gate"
    assert Path(copied / outcome["summary"]["adapter"]).is_file()


def test_no_subject_is_started_where_one_has_a_wrong_name(copied: Path, command: Command) -> None:
    status, envelope, said = answer(command, copied, "zelda", "../x")
    assert (status, envelope["error"]["code"]) == (2, "subject")
    assert "1 of" not in said


def test_a_launch_of_several_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        train_each([], load_recipe("portrait-tiny"), tmp_path, Console(quiet=True))
