"""Replay: the same photos and lock give the same adapter; a difference is named, and the run itself is only read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, hashes

from trainer.console import Console
from trainer.errors import IntegrityError, UsageError
from trainer.replay import check_same, environment_changes, lock_differences, locked_threads, read_lock
from trainer.run import sha256_of


@pytest.fixture
def run(copied: Path) -> Path:
    found: Path = (copied / "runs/zelda/latest").resolve()
    return found


@pytest.fixture
def replay(cli: Command, copied: Path, run: Path) -> Command:
    return lambda: cli("replay", run, "--photos", copied / "subjects/zelda/photos", "--json")


def test_a_replayed_run_gives_the_same_adapter_and_leaves_nothing(replay: Command, run: Path) -> None:
    before = hashes(run)
    done = replay()
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["result"]
    assert said["same"]
    assert all(said["compared"].values())
    assert said["adapter_sha256"]["then"] == said["adapter_sha256"]["now"]
    assert said["of_ceiling"]["then"] == said["of_ceiling"]["now"]
    assert said["environment"] == []
    assert hashes(run) == before
    assert not (run.parent / "replay").exists()


def test_another_number_of_threads_gives_the_same_adapter_and_is_told(
    command: Command, run: Path, copied: Path
) -> None:
    then = json.loads((run / "lock.json").read_text())["threads"]
    assert then == json.loads((run / "2_fit/stage.json").read_text())["facts"]["threads"]
    photos, other = copied / "subjects/zelda/photos", "2" if then == 1 else "1"
    done = command(copied, "replay", run, "--photos", photos, "--json", OMP_NUM_THREADS=other)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["result"]
    here = said["threads"]["of_machine"]  # one, where there is one core
    assert said["same"]
    assert said["threads"] == {"then": then, "now": then, "of_machine": here}
    assert (f"replayed with {then}" in done.stderr) == (then != here)


def test_the_locks_threads_are_used_and_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    before = torch.get_num_threads()
    with locked_threads(before + 1, Console()) as said:
        assert torch.get_num_threads() == before + 1
    assert said == {"then": before + 1, "now": before + 1, "of_machine": before}
    with locked_threads(None, Console()) as said:
        assert said["then"] is None
    assert torch.get_num_threads() == before
    assert "does not say how many threads" in capsys.readouterr().err


def test_another_seed_in_the_lock_comes_out_otherwise_and_says_where(replay: Command, run: Path) -> None:
    lock = json.loads((run / "lock.json").read_text())
    lock["recipe"]["fit"]["seed"] += 1
    lock["versions"]["torch"] = "1.0"
    (run / "lock.json").write_text(json.dumps(lock))
    done = replay()
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 6
    assert "from the checkpoints on" in error["message"]  # eight steps write no line of losses
    assert error["hint"].startswith("torch 1.0 then, ")


def test_photos_that_are_not_those_of_the_lock_are_refused(replay: Command, run: Path, copied: Path) -> None:
    first = min((copied / "subjects/zelda/photos").iterdir())
    first.unlink()
    done = replay()
    assert done.returncode == 3
    assert "1 are missing or changed, 0 are new" in json.loads(done.stdout)["error"]["message"]
    assert not (run.parent / "replay").exists()


def test_a_reference_photo_that_is_not_the_run_s_is_refused(
    run: Path, copied: Path, cli: Command, demo_files: list[Path]
) -> None:
    arguments = ["replay", run, "--photos", copied / "subjects/zelda/photos", "--json"]
    without = cli(*arguments, "--reference", demo_files[20])
    assert without.returncode == 2
    assert "made with no reference photo" in without.stderr
    lock = json.loads((run / "lock.json").read_text())
    (run / "lock.json").write_text(json.dumps(lock | {"reference_sha256": "0" * 64}))
    for more in ([], ["--reference", demo_files[20]]):
        other = cli(*arguments, *more)
        assert other.returncode == 2
        assert "made with another reference photo" in other.stderr
    gone = cli(*arguments, "--reference", "gone.jpg")
    assert gone.returncode == 2
    assert "gone.jpg: no such file" in gone.stderr


def test_captions_that_are_not_those_of_the_lock_are_refused(replay: Command, run: Path, copied: Path) -> None:
    lock = json.loads((run / "lock.json").read_text())
    first = min((copied / "subjects/zelda/photos").iterdir()).with_suffix(".txt")
    first.write_text("on a beach")
    lock["captions"] = [sha256_of(first)]
    (run / "lock.json").write_text(json.dumps(lock))
    first.write_text("in a park")
    done = replay()
    assert done.returncode == 3
    assert "the .txt files are not those of the lock" in json.loads(done.stdout)["error"]["message"]


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        read_lock(tmp_path)
    (run / "lock.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"lock\.json is not readable"):
        read_lock(run)
    shutil.rmtree(run / "4_export")
    with pytest.raises(UsageError, match="no finished run"):
        read_lock(run)


def test_packages_that_changed_or_went_are_named() -> None:
    import numpy

    lock: dict[str, Any] = {"versions": {"numpy": numpy.__version__, "torch": "0.1", "no-such-package": "3"}}
    torch, missing = environment_changes(lock)
    assert torch.startswith("torch 0.1 then, ")
    assert missing == "no-such-package 3 then, not installed now"


def test_a_difference_without_another_version_points_at_the_machine() -> None:
    said: dict[str, Any] = {"run": "r", "same": False, "compared": {"the losses": True}, "environment": []}
    with pytest.raises(IntegrityError, match="from the exported adapter on") as caught:
        check_same(said)
    assert "another processor" in caught.value.hint


def test_locks_that_differ_say_in_what(run: Path, cli: Command, tmp_path: Path) -> None:
    first, other = read_lock(run), read_lock(run)
    assert lock_differences(first, other) == []
    other["recipe"]["fit"]["steps"] = 9
    other["photos"] = [*other["photos"][1:], "f" * 64, "e" * 64]
    other["base_sha256"] = "0" * 64
    other["consent"] = {"given_by": "somebody"}
    assert lock_differences(first, other) == [
        f"base_sha256: {first['base_sha256'][:12]} and 000000000000",
        "consent.given_by: None and somebody",
        "photos: 1 only in the first, 2 only in the other",
        "recipe.fit.steps: 8 and 9",
    ]
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "lock.json").write_text(json.dumps(other))
    done = cli("lock", "diff", run, copy)
    assert "recipe.fit.steps: 8 and 9" in done.stdout
    assert "the locks say the same" in cli("lock", "diff", run, run).stdout
