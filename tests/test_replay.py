"""Replay: the same photos and lock give the same adapter; a difference is named, and the run itself is only read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, hashes

from trainer.adapter import read_adapter
from trainer.bases.base import machine
from trainer.console import Console
from trainer.errors import IntegrityError, UsageError
from trainer.finished import read_lock
from trainer.lock_words import WORDS, lock_differences, named
from trainer.recipe import leaves
from trainer.replay import check_same, environment_changes, locked_threads
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
    assert said["distance"]["losses"] is None  # eight steps write no line of them
    assert said["distance"]["update"] < 1e-9
    assert said["distance"]["likeness"] in (0.0, None)
    assert not said["elsewhere"]
    assert json.loads((run / "lock.json").read_text())["machine"] == machine()
    assert hashes(run) == before
    assert not (run.parent / "replay").exists()


def test_a_moved_run_with_another_number_of_threads_gives_the_same_adapter_and_says_so(
    command: Command, run: Path, copied: Path
) -> None:
    (copied / "My Backup").mkdir()
    run = run.rename(copied / "My Backup/the run")
    shutil.rmtree(copied / "runs")
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
    said["elsewhere"] = False
    with pytest.raises(IntegrityError, match="from the exported adapter on") as caught:
        check_same(said)
    assert "another processor" in caught.value.hint


@pytest.mark.parametrize(
    ("elsewhere", "update", "passes"), [(True, 0.4, True), (True, 0.6, False), (False, 0.4, False)]
)
def test_elsewhere_a_replay_may_come_out_within_the_tolerance(elsewhere: bool, update: float, passes: bool) -> None:
    said: dict[str, Any] = {
        "run": "r", "same": False, "compared": {"the losses": False}, "environment": ["the machine: a and b"],
        "elsewhere": elsewhere, "distance": {"losses": 0.01, "update": update, "likeness": None},
    }  # fmt: skip
    if passes:
        check_same(said)
    else:
        with pytest.raises(IntegrityError, match="from the losses on"):
            check_same(said)


def test_locks_that_differ_say_in_what(run: Path, cli: Command, tmp_path: Path) -> None:
    first, other = read_lock(run), read_lock(run)
    assert lock_differences(first, other) == []
    other["recipe"]["fit"]["steps"] = 9
    other["photos"] = [*other["photos"][1:], "f" * 64, "e" * 64]
    other["base_sha256"] = "0" * 64
    other["consent"] = {"given_by": "somebody"}
    other["versions"]["torch"] = "1.0"
    other["weights"] = dict.fromkeys(other["weights"], "f" * 64)
    other["recipe_sha256"] = "0" * 64  # follows from the recipe's own values
    assert lock_differences(first, other) == [
        f"the base's weights: {first['base_sha256'][:12]} and 000000000000",
        "consent: given_by: none and somebody",
        "the photos: 1 only in the first, 2 only in the other",
        "the recipe's fit.steps: 8 and 9",
        f"the version of torch: {first['versions']['torch']} and 1.0",
        *(f"the face model {name}: {value[:12]} and ffffffffffff" for name, value in sorted(first["weights"].items())),
    ]
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "lock.json").write_text(json.dumps(other))
    done = cli("lock", "diff", run, copy)
    assert "the recipe's fit.steps: 8 and 9" in done.stdout
    assert "the locks say the same" in cli("lock", "diff", run, run).stdout


def test_every_value_of_a_lock_has_words(run: Path) -> None:
    lock = read_lock(run)
    unnamed = [key for key, _ in leaves(lock) if named(key) == key]
    assert unnamed == []
    for key in ("captions", "captioner_sha256", "reference_sha256", "warm_start_sha256", "adapter_sha256"):
        value = ["0" * 64] if key == "captions" else "0" * 64
        (said,) = lock_differences(lock, lock | {key: value})
        assert said.startswith(f"{WORDS[key]}: ")


def test_a_run_of_captions_a_reference_and_a_warm_start_is_the_same_again(
    trained: dict[str, Any], copied: Path, command: Command, demo_files: list[Path]
) -> None:
    photos, start = copied / "subjects/zelda/photos", copied / "start.safetensors"
    for index, photo in enumerate(sorted(photos.iterdir())):
        photo.with_suffix(".txt").write_text(f"in place {index}")
    shutil.copyfile(copied / trained["result"]["adapter"], start)
    chosen = [
        "--reference",
        str(demo_files[0]),
        "--set",
        "prepare.captioner=sidecar",
        "--set",
        f"fit.warm_start={start}",
    ]
    done = command(copied, *trained["arguments"], *chosen)
    assert done.returncode == 0, done.stderr
    run = copied / json.loads(done.stdout)["result"]["run"]
    lock = json.loads((run / "lock.json").read_text())
    assert {"captions", "reference_sha256", "warm_start_sha256"} <= lock.keys()
    again = ["replay", str(run), "--json", "--reference", str(demo_files[0])]
    done = command(copied, *again)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["result"]
    assert said["same"]
    assert said["environment"] == []
    shutil.copyfile(run / "2_fit/checkpoints/step-000004/adapter.safetensors", start)
    done = command(copied, *again)
    assert done.returncode == 2
    assert "is not the adapter that the run's fit started from" in done.stderr
    start.unlink()
    assert "which the run's fit started from, is not there" in command(copied, *again).stderr


def test_a_run_that_tunes_its_text_encoder_and_may_end_early_is_the_same_again(
    trained: dict[str, Any], copied: Path, command: Command
) -> None:
    """Its checkpoints are scored while it fits, by a second base."""
    chosen = ["fit.text_encoder_rate=0.5", "fit.stop_after=1", "fit.checkpoint_every=2"]
    done = command(copied, *trained["arguments"], *[part for text in chosen for part in ("--set", text)])
    assert done.returncode == 0, done.stderr
    run = copied / json.loads(done.stdout)["result"]["run"]
    checks = (run / "2_fit/checks.jsonl").read_text()
    assert [json.loads(line)["step"] for line in checks.splitlines()] == [2, 4]  # a random base shows nobody
    tensors, _ = read_adapter(run / "4_export/zelda.safetensors")
    assert any(key.startswith("text_encoder.") for key in tensors)
    done = command(copied, "replay", str(run), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["result"]
    assert said["same"]
    assert said["environment"] == []
