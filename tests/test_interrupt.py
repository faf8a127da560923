"""A run killed in any stage is finished by the same command, with the adapter of a run that was never killed."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, hashes

STAGES = ["1_prepare", "2_fit", "3_evaluate", "4_export"]
Spawn = Callable[..., subprocess.Popen[str]]


def events(home: Path) -> list[dict[str, Any]]:
    log = home / "runs/zelda/latest/events.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def stop_when(ready: Callable[[], bool], process: subprocess.Popen[str], how: signal.Signals) -> None:
    """Send the signal as soon as `ready`; the process must still be at work then."""
    deadline = time.monotonic() + 240
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it could not be stopped where it should be: {process.communicate()}")
        time.sleep(0.005)
    process.send_signal(how)


def started(home: Path, stage: str, before: int) -> bool:
    return any(event["event"] == "started" and event["stage"] == stage for event in events(home)[before:])


def at_work(home: Path, stage: str, before: int) -> bool:
    """The stage was started and has left something of its own."""
    part = home / "runs/zelda/latest" / f".{stage}.part"
    signs = {
        "1_prepare": lambda: True,
        "2_fit": lambda: any(part.glob("metrics.jsonl")),
        "3_evaluate": lambda: len(list(part.glob("samples/**/*.png"))) > 12,
        "4_export": lambda: True,
    }
    return started(home, stage, before) and signs[stage]()


def adapter_hash(home: Path) -> str:
    manifest = json.loads((home / "runs/zelda/latest/4_export/manifest.json").read_text())
    return str(manifest["tensors_sha256"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_in_any_stage_changes_nothing(
    stage: str, copied: Path, trained: dict[str, Any], spawn: Spawn, command: Command
) -> None:
    wanted, photos = adapter_hash(copied), hashes(copied / "subjects")
    run = (copied / "runs/zelda/latest").resolve()
    for name in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(run / name)
    before = len(events(copied))

    process = spawn(copied, *trained["arguments"])
    stop_when(lambda: at_work(copied, stage, before), process, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / stage).exists()
    kept = {path: path.stat().st_mtime_ns for path in (run / f".{stage}.part").rglob("*.png")}

    done = command(copied, *trained["arguments"])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["reused"] == STAGES[: STAGES.index(stage)]
    assert (copied / result["adapter"]).is_file()
    assert adapter_hash(copied) == wanted
    assert [path.name for path in run.iterdir() if path.name.endswith((".part", ".old"))] == []
    assert hashes(copied / "subjects") == photos
    if stage == "3_evaluate":
        again = {path: (run / stage / path.relative_to(run / f".{stage}.part")).stat().st_mtime_ns for path in kept}
        assert sum(again[path] == kept[path] for path in kept) >= 12  # whole batches are not made twice


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_ends_with_130_and_resumes(
    how: signal.Signals, copied: Path, trained: dict[str, Any], spawn: Spawn, command: Command
) -> None:
    run = (copied / "runs/zelda/latest").resolve()
    for name in STAGES[2:]:
        shutil.rmtree(run / name)
    before = len(events(copied))
    process = spawn(copied, *trained["arguments"])
    stop_when(lambda: at_work(copied, "3_evaluate", before), process, how)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    envelope = json.loads(stdout)
    assert envelope["error"]["code"] == "interrupted"
    assert "same command" in envelope["error"]["hint"]
    assert "Traceback" not in stderr
    if how == signal.SIGINT:
        done = command(copied, *trained["arguments"])
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["result"]["reused"] == STAGES[:2]
