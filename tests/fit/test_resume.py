"""fit: a stopped one goes on as if nothing had happened, bit for bit."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import hashes

from trainer.adapter import read_adapter, tensors_sha256
from trainer.bases.base import get_base
from trainer.console import Console, Tick
from trainer.errors import DivergedError, IntegrityError
from trainer.fit import stage
from trainer.fit.checkpoint import STATE, find_checkpoints

SETTINGS = stage.Settings(
    trigger="ohwx", steps=30, batch_size=2, checkpoint_every=15, rank=4, alpha=8.0, targets="attention+conv",
    learning_rate=1e-3, warmup_steps=5, weight_decay=0.01, min_snr_gamma=5.0, face_weight=2.0, caption_dropout=0.1,
    wordings=3, word_dropout=0.5, prior_batch=1, prior_rows=8, prior_pictures=2, noise_levels="uniform",
    mirror=True, max_grad_norm=1.0, seed=3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state at every tenth step, whatever the clock says."""
    monkeypatch.setattr(stage, "STATE_EVERY_S", -1.0)


def stopping_at(step: int | None) -> Console:
    """A console that is interrupted when that many steps are made."""
    console = Console(quiet=True)

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Tick]:
        made = 0

        def tick(done: int = 1, note: str = "") -> None:
            nonlocal made
            made += done
            if label == "fitting" and done and made == step:
                raise KeyboardInterrupt

        yield tick

    console.progress = progress  # type: ignore[method-assign]
    return console


def fit(samples: Path, base: Path, folder: Path, stops: Sequence[int] = (), **changes: Any) -> dict[str, Any]:
    """Fit into `folder`, interrupted at each of the stops and started anew after it."""
    folder.mkdir(exist_ok=True)
    settings = replace(SETTINGS, **changes)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, stopping_at(stop))
    return stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, stopping_at(None))


@pytest.fixture
def whole(samples: Path, random_base: Path, tmp_path: Path) -> Path:
    """An uninterrupted fit."""
    facts = fit(samples, random_base, tmp_path / "whole")
    assert facts["steps"] == 30
    assert facts["images_seen"] == 60
    return tmp_path / "whole"


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
    step_of = stage.batch_of
    monkeypatch.setattr(stage, "batch_of", lambda cache, step, *rest: made.append(step) or step_of(cache, step, *rest))
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
        stage.fit(samples, base, SETTINGS, folder, stopping_at(25))
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3')
    fit(samples, random_base, folder)
    assert hashes(folder) == hashes(whole)


def test_a_state_that_does_not_fit_is_an_integrity_error(samples: Path, random_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    folder.mkdir()
    base = get_base("portrait-tiny", str(random_base))
    with pytest.raises(KeyboardInterrupt):
        stage.fit(samples, base, SETTINGS, folder, stopping_at(25))
    with pytest.raises(IntegrityError, match=STATE):
        fit(samples, random_base, folder, rank=8)
    data = (folder / STATE).read_bytes()
    (folder / STATE).write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=STATE) as caught:
        fit(samples, random_base, folder)
    assert "--fresh" in caught.value.hint


def test_a_loss_that_is_no_number_stops_the_fit(samples: Path, random_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the loss at step 2 is") as caught:
        fit(samples, random_base, tmp_path / "fit", alpha=1e16)
    assert "learning_rate" in caught.value.hint


def test_the_global_generator_takes_no_part(whole: Path, samples: Path, random_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    fit(samples, random_base, tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(whole)
