"""Trackers: their real files, read back, hold what the metrics say, and nothing of the person."""

import importlib.util
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, hashes, write_samples
from test_loop import SETTINGS

from trainer.bases.base import get_base
from trainer.console import Console
from trainer.errors import MissingPartError
from trainer.fit import loop, stage

NUMBERS = {"loss", "learning_rate", "seconds_per_step", "peak_bytes"}
SAID_NOWHERE = (b"ohwx", b"photo of", b"0.png", b"zelda")


@pytest.fixture(autouse=True)
def every_step_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "METRICS_EVERY", 1)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


def fit(samples: Path, base: Path, run: Path, *trackers: str) -> dict[str, float]:
    """A small fit in `run`/2_fit; its metrics."""
    (run / "2_fit").mkdir(parents=True, exist_ok=True)
    settings = replace(SETTINGS, trackers=trackers)
    stage.fit(samples, get_base("portrait-tiny", str(base)), settings, run / "2_fit", Console(quiet=True))
    lines = [json.loads(line) for line in (run / "2_fit/metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def read_back(folder: Path) -> dict[str, dict[int, float]]:
    """Every scalar of a TensorBoard folder: value by step; no step may be there twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        scalars = events.Scalars(tag)
        found[tag] = {event.step: event.value for event in scalars}
        assert len(found[tag]) == len(scalars)
    return found


def test_tensorboard_holds_the_metrics_and_changes_no_bit_of_the_fit(
    samples: Path, random_base: Path, tmp_path: Path
) -> None:
    losses = fit(samples, random_base, tmp_path / "tracked", "tensorboard")
    fit(samples, random_base, tmp_path / "plain")
    assert hashes(tmp_path / "tracked/2_fit") == hashes(tmp_path / "plain/2_fit")
    assert not (tmp_path / "plain/trackers").exists()
    found = read_back(tmp_path / "tracked/trackers/likeness")
    assert set(found) == NUMBERS
    assert found["loss"] == pytest.approx(losses, abs=1e-5)
    assert list(found["learning_rate"]) == [1, 2, 3, 4]
    assert all(0 < seconds < 600 for seconds in found["seconds_per_step"].values())
    assert all(bytes_ > 10**8 for bytes_ in found["peak_bytes"].values())
    for file in (tmp_path / "tracked/trackers").rglob("*"):
        assert not file.is_file() or not any(word in file.read_bytes() for word in SAID_NOWHERE)


def test_steps_made_again_after_a_stop_are_shown_once(
    samples: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_of = loop.Loop._step

    def stopping(self: loop.Loop, step: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return step_of(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit(samples, random_base, tmp_path, "tensorboard")
    losses = fit(samples, random_base, tmp_path, "tensorboard")
    assert read_back(tmp_path / "trackers/likeness")["loss"] == pytest.approx(losses, abs=1e-5)


def test_a_package_that_is_not_there_is_a_missing_part(
    samples: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(MissingPartError, match="the package wandb is not installed") as caught:
        fit(samples, random_base, tmp_path, "tensorboard", "wandb")
    assert "likeness-trainer[trackers]" in caught.value.hint


def test_wandb_writes_offline_and_says_nothing_of_the_person(samples: Path, random_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "zelda"
    losses = fit(samples, random_base, run, "wandb")
    (record,) = run.glob("trackers/wandb/offline-run-*/run-*.wandb")
    said = record.read_bytes()
    for number in NUMBERS:
        assert number.encode() in said
    assert str(losses[4])[:6].encode() in said
    assert not any(word in said for word in SAID_NOWHERE)


@pytest.mark.parametrize("trackers", ["[wandb, wandb-online]", "[tensorboard, tensorboard]", "[mlflow]"])
def test_a_tracker_that_is_unknown_or_named_twice_is_refused(trackers: str, cli: Command) -> None:
    done: subprocess.CompletedProcess[Any] = cli(
        "recipe", "check", "portrait-tiny", "--set", f"fit.trackers={trackers}"
    )
    assert done.returncode == 2
    assert "fit.trackers" in done.stderr
