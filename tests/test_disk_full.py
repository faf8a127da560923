"""A full disk: exit 4 with what to do, photos untouched, and the same command goes on once there is room."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"root may not mount here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, room: int) -> Path:
    """A file that leaves this many bytes."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    with filler.open("wb") as handle:
        for _ in range((free - room) // PAGE):
            handle.write(bytes(PAGE))
    assert abs(shutil.disk_usage(disk).free - room) <= PAGE
    return filler


def refused(done: subprocess.CompletedProcess[str], disk: Path) -> None:
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "missing"
    assert "no space left" in error["message"]
    assert str(disk) in error["message"]
    assert "run the same command again" in error["hint"]


@pytest.mark.parametrize("room", [0, 2 * PAGE, 100_000], ids=["from the start", "after the lock", "among the samples"])
def test_prepare_stops_and_goes_on_once_there_is_room(
    room: int, disk: Path, cli: Command, photos: Path, fast: list[str], weights: Path
) -> None:
    arguments = ["prepare", "alice", "--photos", photos, "--out", disk / "runs", "--json", *fast]
    filler = fill(disk, room)
    refused(cli(*arguments), disk)
    assert not list(disk.rglob("1_prepare"))
    filler.unlink()
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    run = disk / "runs/alice/latest"
    assert json.loads((run / "lock.json").read_text())["schema"] == 1
    assert all(json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines())
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("stage", ["2_fit", "3_evaluate", "4_export"])
def test_later_stages_stop_and_go_on_too(
    stage: str, disk: Path, cli: Command, trained: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(trained["home"] / "runs", disk / "runs", symlinks=True)
    run = (disk / "runs/zelda/latest").resolve()
    wanted = json.loads((run / "4_export/manifest.json").read_text())["tensors_sha256"]
    stages = ["2_fit", "3_evaluate", "4_export"]
    for name in stages[stages.index(stage) :]:
        shutil.rmtree(run / name)
    photos = tmp_path / "photos"
    shutil.copytree(trained["home"] / "subjects/zelda/photos", photos)
    arguments = [*trained["arguments"], "--photos", photos, "--out", disk / "runs"]
    filler = fill(disk, 200_000)
    refused(cli(*arguments), disk)
    assert not (run / stage).exists()
    filler.unlink()
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "4_export/manifest.json").read_text())["tensors_sha256"] == wanted
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]
