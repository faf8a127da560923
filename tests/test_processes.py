"""`accelerate launch` with two processes on a CPU: one command, one result, and the losses of twice the batch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT, Command, write_samples

from trainer.adapter import read_adapter
from trainer.fit.checkpoint import find_checkpoints

LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip
FP32 = ["--set", "fit.steps=20", "--set", "fit.precision=fp32"]  # the tolerances are those of its rounding
HALF = [*FP32, "--set", "fit.batch_size=1", "--set", "fit.prior_batch=1"]
WHOLE = [*FP32, "--set", "fit.batch_size=2", "--set", "fit.prior_batch=2"]
LOSS_TOLERANCE = 2e-4  # sums in another order
WEIGHT_TOLERANCE = {"rtol": 1e-2, "atol": 1e-4}

DIVERGING = """
import os, sys
os.environ["ACCELERATE_USE_CPU"] = "true"
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {fit!r}]
import torch
from test_loop import SETTINGS
from trainer import processes
from trainer.bases.base import get_base
from trainer.console import Console
from trainer.errors import DivergedError
from trainer.fit import loop, stage
loss = loop.diffusion_loss
if processes.index() == 1:
    loop.diffusion_loss = lambda *given: loss(*given) * torch.nan
samples, base, folder = map(Path, sys.argv[1:])
settings = replace(SETTINGS, batch_size=1, prior_batch=0)
try:
    stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, Console(quiet=True))
except DivergedError as error:
    (folder / str(processes.index())).write_text(error.message)
"""


def launched(cwd: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LAUNCH, *map(str, arguments)], cwd=cwd, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code of the launcher, the one envelope on stdout, and stderr."""
    stdout, stderr = process.communicate(timeout=600)
    assert stdout.count("\n") == 1, stdout + stderr
    return process.returncode, json.loads(stdout), stderr


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "2_fit/metrics.jsonl").read_text().splitlines()]


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return read_adapter(find_checkpoints(run / "2_fit")[-1].adapter)[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, demo_files: list[Path], weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "photos").mkdir()
    for index, file in enumerate(demo_files[:14]):
        (folder / f"photos/holiday{index:02d}.jpg").symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def result(home: Path, fast: list[str]) -> dict[str, Any]:
    """What a whole run by two processes prints; nothing may be said twice."""
    arguments = ["train", "zelda", "--photos", "photos", "--json", *fast, *HALF]
    status, envelope, stderr = ended(launched(home, "-m", "trainer", *arguments))
    assert status == 0, stderr
    assert stderr.count("fitting: 20/20") == stderr.count("checking photos: 14/14") == 1
    said: dict[str, Any] = envelope["result"]
    return said


def test_two_processes_make_one_run_with_the_losses_of_twice_the_batch(
    result: dict[str, Any], home: Path, fast: list[str], command: Command
) -> None:
    run = home / result["run"]
    assert (home / result["adapter"]).is_file()
    assert json.loads((run / "lock.json").read_text())["processes"] == 2
    assert result["stages"]["2_fit"]["images_seen"] == 20 * 2
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []
    done = command(home, "fit", "zelda", "--photos", "photos", "--json", *fast, *WHOLE, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    alone = home / json.loads(done.stdout)["result"]["run"]
    assert alone.resolve() != run.resolve()
    assert len(losses(run)) == 2
    assert losses(run) == pytest.approx(losses(alone), abs=LOSS_TOLERANCE)
    for name, tensor in adapter(alone).items():
        torch.testing.assert_close(adapter(run)[name], tensor, **WEIGHT_TOLERANCE)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_kill_of_one_ends_all_and_the_same_command_resumes(
    lost: int, result: dict[str, Any], home: Path, fast: list[str]
) -> None:
    arguments = ["-m", "trainer", "fit", "zelda", "--photos", "photos", "--json", *fast, *HALF, "--out", f"lost{lost}"]
    process = launched(home, *arguments)
    deadline = time.monotonic() + 300
    while not list(home.glob(f"lost{lost}/zelda/latest/.2_fit.part/checkpoints/*/adapter.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    ranked = {int(worker.environ()["RANK"]): worker for worker in workers if "RANK" in worker.environ()}
    ranked[lost].send_signal(signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert not any(worker.is_running() for worker in workers)
    if lost:  # the first one was left to say so
        assert json.loads(stdout)["error"]["code"] == "interrupted", stderr
    status, envelope, stderr = ended(launched(home, *arguments))
    assert status == 0, stderr
    assert losses(home / envelope["result"]["run"]) == losses(home / result["run"])
    for name, tensor in adapter(home / result["run"]).items():
        assert torch.equal(adapter(home / envelope["result"]["run"])[name], tensor)


def test_a_loss_that_is_no_number_in_one_process_stops_all_and_the_sample_is_named(
    random_base: Path, tmp_path: Path
) -> None:
    script = tmp_path / "diverging.py"
    script.write_text(DIVERGING.format(tests=str(ROOT / "tests"), fit=str(ROOT / "tests/fit")))
    (tmp_path / "fit").mkdir()
    process = launched(tmp_path, script, write_samples(tmp_path), random_base, tmp_path / "fit")
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    said = {(tmp_path / f"fit/{index}").read_text() for index in (0, 1)}
    assert len(said) == 1
    assert "the loss at step 1 is nan (samples " in said.pop()


def test_only_the_first_process_does_what_is_no_fit(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    done = cli("recipe", "list", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wrong = cli("train", "alice", "--set", "fit.stepz=1", "--json")
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", "")


def test_a_replay_wants_as_many_processes(copied: Path, monkeypatch: pytest.MonkeyPatch, cli: Command) -> None:
    monkeypatch.chdir(copied)
    lock = copied / "runs/zelda/latest/lock.json"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"processes": 2}))
    done = cli("replay", "runs/zelda/latest", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert "by 2 processes, not 1" in error["message"]
    assert "accelerate launch --multi_gpu --num_processes 2" in error["hint"]
