"""fit.stop_after: a fit ends where its checkpoints get no better, at the same step however often it was stopped."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import hashes, interrupted_at, write_samples
from hypothesis import given
from hypothesis import strategies as st

from trainer.adapter import read_adapter
from trainer.bases.base import get_base
from trainer.fit import loop, stage
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.patience import CHECKS, checks_since_best
from trainer.records import Checkpoint

SETTINGS = stage.Settings(
    trigger="ohwx", steps=16, batch_size=1, checkpoint_every=2, rank=2, alpha=2.0, targets=["to_q"],
    learning_rate=1e-3, warmup_steps=2, weight_decay=0.01, min_snr_gamma=None, face_weight=2.0, caption_dropout=0.0,
    wordings=1, word_dropout=0.5, prior_batch=0, prior_rows=1, prior_pictures=0, mirror=True, max_grad_norm=1.0, seed=3,
    stop_after=2,
)  # fmt: skip
SCORES = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.4, 10: 0.4, 12: 0.1, 14: 0.9}  # two in a row are no better at step 12


@pytest.fixture(autouse=True)
def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state at every third step: some between a checkpoint and the next one, some on one."""
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)
    monkeypatch.setattr(loop, "METRICS_EVERY", 3)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


class Scorer:
    """Gives each step its score, and remembers which checkpoints it was shown."""

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores, self.shown = scores, list[int]()

    def __call__(self, checkpoint: Checkpoint) -> float:
        assert checkpoint.adapter.is_file()
        self.shown.append(checkpoint.step)
        return self.scores[checkpoint.step]


def fit(
    samples: Path, base: Path, folder: Path, check: Scorer | None, stops: Sequence[int] = (), **changes: Any
) -> dict[str, Any]:
    """Fit into `folder`, interrupted at each of the stops and started anew after it."""
    folder.mkdir(exist_ok=True)
    settings = replace(SETTINGS, **changes)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, interrupted_at(stop), check)
    return stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, interrupted_at(None), check)


def steps(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in find_checkpoints(folder)]


@pytest.fixture(scope="module")
def early(samples: Path, random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A fit that ended early, and its facts."""
    folder = tmp_path_factory.mktemp("early") / "fit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "METRICS_EVERY", 3)
        return folder, fit(samples, random_base, folder, Scorer(SCORES))


def test_it_ends_after_so_many_checkpoints_without_a_better_one(early: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = early
    assert steps(folder) == [2, 4, 6, 8, 10, 12]
    assert (facts["steps"], facts["images_seen"], facts["stopped_early"]) == (12, 12, True)
    lines = [json.loads(line) for line in (folder / CHECKS).read_text().splitlines()]
    assert lines == [{"step": step, "score": SCORES[step]} for step in steps(folder)]


def test_while_each_is_better_every_step_is_made_and_the_last_is_not_asked_about(
    samples: Path, random_base: Path, tmp_path: Path
) -> None:
    check = Scorer({step: step / 100 for step in range(20)})
    facts = fit(samples, random_base, tmp_path / "fit", check)
    assert check.shown == [2, 4, 6, 8, 10, 12, 14]
    assert (facts["steps"], facts["stopped_early"]) == (16, False)


@pytest.mark.parametrize("check", [None, Scorer({})])
def test_looking_changes_no_step(
    check: Scorer | None, early: tuple[Path, dict[str, Any]], samples: Path, random_base: Path, tmp_path: Path
) -> None:
    """Without a check, or without the wish to stop, every step is made, and those that both made are the same."""
    facts = fit(samples, random_base, tmp_path / "fit", check, stop_after=None if check else 1)
    assert (facts["steps"], facts["stopped_early"]) == (16, False)
    made, wanted = hashes(tmp_path / "fit/checkpoints"), hashes(early[0] / "checkpoints")
    assert {name: made[name] for name in wanted} == wanted
    assert not (tmp_path / "fit" / CHECKS).exists()


@pytest.mark.parametrize("stops", [[4], [7], [9, 10], [3, 11]])
def test_an_interrupted_one_ends_at_the_same_step_with_the_same_files(
    stops: list[int], early: tuple[Path, dict[str, Any]], samples: Path, random_base: Path, tmp_path: Path
) -> None:
    check = Scorer(SCORES)
    facts = fit(samples, random_base, tmp_path / "fit", check, stops)
    assert facts["steps"] == 12
    assert hashes(tmp_path / "fit") == hashes(early[0])
    assert set(check.shown) == {2, 4, 6, 8, 10, 12}


class Stopping(Scorer):
    """Is interrupted while it scores the last checkpoint for the first time."""

    def __call__(self, checkpoint: Checkpoint) -> float:
        score = super().__call__(checkpoint)
        if checkpoint.step == 12 and self.shown.count(12) == 1:
            raise KeyboardInterrupt
        return score


def test_one_interrupted_while_it_scores_asks_again(
    early: tuple[Path, dict[str, Any]], samples: Path, random_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "fit").mkdir()
    base, check = get_base("portrait-tiny", str(random_base)), Stopping(SCORES)
    with pytest.raises(KeyboardInterrupt):
        stage.fit(samples, base, SETTINGS, tmp_path / "fit", interrupted_at(None), check)
    assert fit(samples, random_base, tmp_path / "fit", check)["steps"] == 12
    assert check.shown.count(12) == 2
    assert hashes(tmp_path / "fit") == hashes(early[0])


def test_a_score_that_was_lost_is_made_again(
    early: tuple[Path, dict[str, Any]], samples: Path, random_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "fit").mkdir()
    base = get_base("portrait-tiny", str(random_base))
    with pytest.raises(KeyboardInterrupt):
        stage.fit(samples, base, SETTINGS, tmp_path / "fit", interrupted_at(7), Scorer(SCORES))
    lines = (tmp_path / "fit" / CHECKS).read_text().splitlines()
    (tmp_path / "fit" / CHECKS).write_text("\n".join([*lines[:1], '{"step": 4, "sc']))
    assert fit(samples, random_base, tmp_path / "fit", Scorer(SCORES))["steps"] == 12
    assert hashes(tmp_path / "fit") == hashes(early[0])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_only_a_higher_score_starts_the_count_anew(scores: list[float]) -> None:
    best, since = scores[0], 0
    for score in scores[1:]:
        best, since = (score, 0) if score > best else (best, since + 1)
    assert checks_since_best(scores) == since


def test_one_that_tunes_the_text_encoder_ends_at_the_same_step_with_the_same_files(
    samples: Path, random_base: Path, tmp_path: Path
) -> None:
    tuning = {"text_encoder_rate": 0.5, "targets": "attention"}
    checks = {folder: Scorer(SCORES) for folder in ("whole", "stopped")}
    assert fit(samples, random_base, tmp_path / "whole", checks["whole"], **tuning)["steps"] == 12
    assert fit(samples, random_base, tmp_path / "stopped", checks["stopped"], [3, 11], **tuning)["steps"] == 12
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")
    tensors, _ = read_adapter(find_checkpoints(tmp_path / "whole")[-1].adapter)
    assert any(key.startswith("text_encoder.") for key in tensors)
