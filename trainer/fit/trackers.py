"""What a fit tells TensorBoard or Weights & Biases, through accelerate's trackers: numbers, and nothing of the person.

Owner of tensorboard and wandb: each is imported where it is asked for.
"""

from __future__ import annotations

import importlib.util
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from trainer.console import Console
from trainer.errors import MissingPartError

FOLDER = "trackers"  # beside the stages: a live log is no part of a stage's result
PROJECT = "likeness"
TENSORBOARD, WANDB, WANDB_ONLINE = "tensorboard", "wandb", "wandb-online"
PACKAGES = {TENSORBOARD: "tensorboard", WANDB: "wandb", WANDB_ONLINE: "wandb"}


def accelerator_with(trackers: Sequence[str], folder: Path) -> Accelerator:
    """accelerate's view of the processes, with trackers that write below `folder`/trackers.

    Raises MissingPartError where a tracker's package is not installed.
    """
    for name in trackers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise MissingPartError(
                f"fit.trackers asks for {name}, and the package {PACKAGES[name]} is not installed",
                "pip install 'likeness-trainer[trackers]', or leave it out of fit.trackers",
            )
    if not trackers:
        return Accelerator()
    where = ProjectConfiguration(logging_dir=str(folder / FOLDER))
    return Accelerator(log_with=[PACKAGES[name] for name in trackers], project_config=where)


def start_trackers(accelerator: Accelerator, trackers: Sequence[str], step: int, console: Console) -> None:
    """Begin to write, in the first process; what is there of steps after `step` counts no more."""
    if not trackers or not accelerator.is_main_process:
        return
    if WANDB_ONLINE in trackers:
        console.say("fit.trackers has wandb-online: loss, rate, times and memory leave this machine for your account")
    place = Path(accelerator.logging_dir)
    place.mkdir(exist_ok=True)
    options: dict[str, dict[str, Any]] = {TENSORBOARD: {"purge_step": step + 1}}
    if set(trackers) - {TENSORBOARD}:
        options[WANDB] = _wandb(online=WANDB_ONLINE in trackers) | {"dir": str(place)}
    accelerator.init_trackers(PROJECT, init_kwargs=options)


def measured(loss: float, rate: float, seconds: float) -> dict[str, float]:
    """The numbers of one record, by the names that trackers show; seconds and bytes."""
    return {"loss": loss, "learning_rate": rate, "seconds_per_step": seconds, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """Most memory this process has used so far: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _wandb(online: bool) -> dict[str, Any]:
    """How wandb.init is called: without command line, host, packages, code or git."""
    wandb: Any = importlib.import_module("wandb")
    bare = wandb.Settings(
        disable_git=True, save_code=False, console="off", silent=True,
        x_disable_meta=True, x_disable_machine_info=True, x_disable_stats=True, x_save_requirements=False,
    )  # fmt: skip
    return {"mode": "online" if online else "offline", "settings": bare}
