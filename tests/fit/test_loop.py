"""The loop's options: what must not change the result does not, and what should does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import hashes, write_samples

from trainer.adapter import read_adapter
from trainer.bases.base import get_base
from trainer.console import Console
from trainer.errors import DivergedError
from trainer.fit import loop, stage
from trainer.fit.checkpoint import find_checkpoints

SETTINGS = stage.Settings(
    trigger="ohwx", steps=4, batch_size=2, checkpoint_every=4, rank=2, alpha=2.0, targets=["to_q", "to_v"],
    learning_rate=1e-2, warmup_steps=0, weight_decay=0.01, min_snr_gamma=None, face_weight=2.0, caption_dropout=0.1,
    wordings=1, word_dropout=0.5, prior_batch=1, prior_rows=8, prior_pictures=0, mirror=True, max_grad_norm=1.0, seed=3,
)  # fmt: skip

LAUNCHED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import torch
from test_loop import SETTINGS
from trainer.bases.base import get_base
from trainer.console import Console
from trainer.fit import loop, stage
torch.set_num_threads(1)
loop.METRICS_EVERY, loop.STATE_EVERY_S = 1, -1.0
samples, base, folder = map(Path, sys.argv[1:])
stage.fit(samples, get_base("portrait-tiny", str(base)), replace(SETTINGS, batch_size=1), folder, Console(quiet=True))
"""


@pytest.fixture(autouse=True)
def every_step_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "METRICS_EVERY", 1)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


def fit(samples: Path, base: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """The adapter of a small fit with these changes."""
    folder.mkdir(exist_ok=True)
    settings = replace(SETTINGS, **changes)
    return stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, Console(quiet=True))


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return read_adapter(find_checkpoints(folder)[-1].adapter)[0]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_near(first: Path, other: Path) -> None:
    assert losses(first) == pytest.approx(losses(other), abs=2e-4)
    found, wanted = adapter(first), adapter(other)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-4)


@pytest.fixture(scope="module")
def plain(samples: Path, random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "fit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "METRICS_EVERY", 1)
        fit(samples, random_base, folder)
    return folder


def test_two_parts_make_the_step_of_one_batch(samples: Path, random_base: Path, tmp_path: Path) -> None:
    facts = fit(samples, random_base, tmp_path / "parts", batch_size=1, accumulation=2, prior_batch=0)
    fit(samples, random_base, tmp_path / "whole", prior_batch=0)
    assert facts["images_seen"] == 8
    assert_near(tmp_path / "parts", tmp_path / "whole")


def fit_in_two(samples: Path, base: Path, folder: Path, source: str = LAUNCHED) -> None:
    """The same by two processes that run `source`, one row and one of the prior each."""
    here = Path(__file__).resolve().parent
    script = folder.with_name("launched.py")
    script.write_text(source.format(tests=str(here.parent), here=str(here)))
    folder.mkdir()
    # What `accelerate launch` calls; by itself it starts several processes on a CPU through MPI alone.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(here.parent.parent),
    }  # fmt: skip
    done = subprocess.run(
        [*command, str(samples), str(base), str(folder)], env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_processes_make_the_steps_of_one_with_twice_the_batch(
    samples: Path, random_base: Path, tmp_path: Path
) -> None:
    fit_in_two(samples, random_base, tmp_path / "two")
    fit(samples, random_base, tmp_path / "one", batch_size=2, prior_batch=2)
    assert_near(tmp_path / "two", tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["checkpoints", "metrics.jsonl"]


def test_gradient_checkpointing_changes_no_bit(plain: Path, samples: Path, random_base: Path, tmp_path: Path) -> None:
    base = get_base("portrait-tiny", str(random_base))
    (tmp_path / "fit").mkdir()
    stage.fit(samples, base, replace(SETTINGS, gradient_checkpointing=True), tmp_path / "fit", Console(quiet=True))
    assert base.denoiser.is_gradient_checkpointing
    assert hashes(tmp_path / "fit") == hashes(plain)


def test_checkpoints_hold_the_averages_and_training_goes_on_from_the_weights(
    plain: Path, samples: Path, random_base: Path, tmp_path: Path
) -> None:
    fit(samples, random_base, tmp_path / "averaged", ema_decay=0.5, checkpoint_every=2)
    assert losses(tmp_path / "averaged") == losses(plain)
    weights, averages = adapter(plain), adapter(tmp_path / "averaged")
    ups = [name for name in weights if "lora_B" in name]
    # B starts at zero and the average follows it from behind.
    assert sum(float(averages[name].norm()) for name in ups) < sum(float(weights[name].norm()) for name in ups)


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.3, "schedule": "constant"},
        {"adapter": "dora", "optimizer": "lion"},
        {"adapter": "rslora", "alpha": 3.0, "rank_pattern": {"to_q": 5}, "weighting": "debiased"},
        {"init": "pissa", "lora_plus_ratio": 8.0},
        {"optimizer": "prodigy", "learning_rate": 1.0},
        {"optimizer": "adafactor", "accumulation": 2, "ema_decay": 0.9},
    ],
    ids=str,
)
def test_an_option_changes_the_adapter_and_a_stopped_fit_resumes_to_it(
    changes: dict[str, Any], plain: Path, samples: Path, random_base: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fit(samples, random_base, tmp_path / "whole", **changes)
    assert hashes(tmp_path / "whole") != hashes(plain)
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)
    step_of, folder = loop.Loop._step, tmp_path / "stopped"

    def stopping(self: loop.Loop, step: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return step_of(self, step)

    monkeypatch.setattr(loop.Loop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(samples, random_base, folder, **changes)
    monkeypatch.setattr(loop.Loop, "_step", step_of)
    torch.manual_seed(99)  # no part of the result may come from here
    fit(samples, random_base, folder, **changes)
    assert hashes(folder) == hashes(tmp_path / "whole")


def test_a_gradient_that_is_no_number_stops_before_the_step(
    samples: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop.Loop.run
    loops: list[loop.Loop] = []

    def hooked(self: loop.Loop, *rest: Any) -> float:
        loops.append(self)
        weight = next(weight for name, weight in self.trained.weights.items() if "lora_B" in name)
        weight.register_hook(lambda gradient: gradient * torch.inf)
        return run(self, *rest)

    monkeypatch.setattr(loop.Loop, "run", hooked)
    with pytest.raises(DivergedError, match=r"norm of the gradient at step 1 is .* \(samples 0.png, 1.png\)"):
        fit(samples, random_base, tmp_path / "fit")
    assert not loops[0].trained.optimizer.state
