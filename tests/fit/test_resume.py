"""fit: a stopped one goes on as if nothing had happened, bit for bit."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import hashes, interrupted_at, write_samples

from trainer.adapter import read_adapter, tensors_sha256
from trainer.bases.base import get_base
from trainer.console import Console
from trainer.errors import DivergedError, IntegrityError
from trainer.fit import loop, stage
from trainer.fit.checkpoint import EARLIER_STATE, STATE, find_checkpoints

SETTINGS = stage.Settings(
    trigger="ohwx", steps=30, batch_size=2, checkpoint_every=15, rank=4, alpha=8.0, targets="attention+conv",
    learning_rate=1e-3, warmup_steps=5, weight_decay=0.01, min_snr_gamma=5.0, face_weight=2.0, caption_dropout=0.1,
    wordings=3, word_dropout=0.5, prior_batch=1, prior_rows=8, prior_pictures=2, noise_levels="uniform",
    mirror=True, max_grad_norm=1.0, seed=3,
    weighting="min_snr",
)  # fmt: skip


@pytest.fixture(autouse=True)
def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state at every tenth step, whatever the clock says."""
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)


def fit(samples: Path, base: Path, folder: Path, stops: Sequence[int] = (), **changes: Any) -> dict[str, Any]:
    """Fit into `folder`, interrupted at each of the stops and started anew after it."""
    folder.mkdir(exist_ok=True)
    settings = replace(SETTINGS, **changes)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, interrupted_at(stop))
    return stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, interrupted_at(None))


@pytest.fixture(scope="module")
def whole(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted fit."""
    home = tmp_path_factory.mktemp("home")
    facts = fit(write_samples(home), random_base, home / "whole")
    assert facts["steps"] == 30
    assert facts["images_seen"] == 60
    return home / "whole"


def test_checkpoints_metrics_and_no_state_are_left(whole: Path) -> None:
    assert [checkpoint.step for checkpoint in find_checkpoints(whole)] == [15, 30]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in lines)
    assert not (whole / STATE).exists()
    first, last = (read_adapter(checkpoint.adapter)[0] for checkpoint in find_checkpoints(whole))
    assert tensors_sha256(first) != tensors_sha256(last)


def test_the_rate_warms_up_and_falls_to_a_tenth(samples: Path, random_base: Path, tmp_path: Path) -> None:
    fit(samples, random_base, tmp_path / "fit", warmup_steps=20)
    rates = [json.loads(line)["lr"] for line in (tmp_path / "fit/metrics.jsonl").read_text().splitlines()]
    share = (29 - 20) / (30 - 20)
    assert rates == pytest.approx([1e-3 * 10 / 20, 1e-3, 1e-4 + 0.45e-3 * (1 + math.cos(math.pi * share))])


@pytest.mark.parametrize("stops", [(5,), (10,), (17,), (29,), (13, 21, 21)], ids=str)
def test_a_resumed_fit_equals_a_whole_one(
    stops: Sequence[int], whole: Path, samples: Path, random_base: Path, tmp_path: Path
) -> None:
    facts = fit(samples, random_base, tmp_path / "stopped", stops)
    assert facts["steps"] == 30
    assert hashes(tmp_path / "stopped") == hashes(whole)


def test_it_goes_on_from_the_state_and_not_from_the_start(
    samples: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    step_of = loop.batch_of
    monkeypatch.setattr(loop, "batch_of", lambda cache, step, *rest: made.append(step) or step_of(cache, step, *rest))
    fit(samples, random_base, tmp_path / "stopped", [17])
    assert made == [*range(17), *range(10, 30)]


def test_another_seed_is_another_adapter(whole: Path, samples: Path, random_base: Path, tmp_path: Path) -> None:
    fit(samples, random_base, tmp_path / "other", seed=4)
    assert hashes(tmp_path / "other") != hashes(whole)


def test_a_cut_line_of_metrics_does_not_stop_the_resume(
    whole: Path, samples: Path, random_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    folder.mkdir()
    base = get_base("portrait-tiny", str(random_base))
    with pytest.raises(KeyboardInterrupt):
        stage.fit(samples, base, SETTINGS, folder, interrupted_at(25))
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3')
    fit(samples, random_base, folder)
    assert hashes(folder) == hashes(whole)


def stopped_at(step: int, samples: Path, base: Path, folder: Path) -> Path:
    """A folder as a fit leaves it that is interrupted after that many steps: states of the last two tens."""
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        stage.fit(samples, get_base("portrait-tiny", str(base)), SETTINGS, folder, interrupted_at(step))
    return folder


def test_a_state_of_another_fit_is_an_integrity_error(samples: Path, random_base: Path, tmp_path: Path) -> None:
    folder = stopped_at(25, samples, random_base, tmp_path / "stopped")
    for changes in ({"rank": 8}, {"optimizer": "adafactor"}, {"ema_decay": 0.9}, {"lora_plus_ratio": 4.0}):
        with pytest.raises(IntegrityError, match=STATE) as caught:
            fit(samples, random_base, folder, **changes)
        assert "--fresh" in caught.value.hint


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    """One bit of the last weight."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "hurt", "goes_on_at", "words"),
    [
        (torn, (STATE,), 10, f"going back to {EARLIER_STATE}"),
        (flipped, (STATE,), 10, "its checksum differs"),
        (Path.unlink, (STATE,), 10, f"{STATE} is missing"),
        (flipped, (EARLIER_STATE,), 20, ""),
        (torn, (STATE, EARLIER_STATE), 0, "starting again from the first step"),
    ],
)
def test_a_spoilt_state_costs_steps_and_is_said(
    harm: Callable[[Path], None], hurt: Sequence[str], goes_on_at: int, words: str, whole: Path, samples: Path,
    random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = stopped_at(25, samples, random_base, tmp_path / "stopped")
    for name in hurt:
        harm(folder / name)
    made: list[int] = []
    step_of = loop.batch_of
    monkeypatch.setattr(loop, "batch_of", lambda cache, step, *rest: made.append(step) or step_of(cache, step, *rest))
    stage.fit(samples, get_base("portrait-tiny", str(random_base)), SETTINGS, folder, Console())
    assert made == list(range(goes_on_at, 30))
    assert hashes(folder) == hashes(whole)
    said = capsys.readouterr().err
    assert words in said
    assert ("state" in said) == bool(words)


def test_a_loss_that_is_no_number_stops_the_fit(samples: Path, random_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the loss at step 2 is") as caught:
        fit(samples, random_base, tmp_path / "fit", alpha=1e16)
    assert "learning_rate" in caught.value.hint


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_sample_that_is_no_number_is_named_before_it_moves_the_weights(
    accumulation: int, samples: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[loop.Loop] = []
    run = loop.Loop.run

    def spoilt(self: loop.Loop, *rest: Any) -> float:
        loops.append(self)
        self.cache.latents[1].fill_(math.nan)
        return run(self, *rest)

    monkeypatch.setattr(loop.Loop, "run", spoilt)
    batch_size = 2 // accumulation
    changes = {"batch_size": batch_size, "accumulation": accumulation, "steps": 3, "checkpoint_every": 3}
    with pytest.raises(DivergedError, match=r"the loss at step 1 is nan \(samples 1\.png\)"):
        fit(samples, random_base, tmp_path / "fit", **changes)
    assert not loops[0].trained.optimizer.state  # no step was made
    assert all(bool(torch.isfinite(weight).all()) for weight in loops[0].trained.weights.values())


def test_the_global_generator_takes_no_part(whole: Path, samples: Path, random_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    fit(samples, random_base, tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(whole)
