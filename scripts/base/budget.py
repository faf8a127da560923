"""How long a training goes on, and where: the arguments that both trainings share.

`--minutes` counts the clock, so that two runs on a busy machine make other steps. `--steps` makes the same weights
every time on the same machine, however often it was stopped and resumed.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.bases.base import best_device, resolve_precision

MINUTES = 60.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a training may use in all, over every resume.

    Attributes:
        minutes: of the clock; not looked at where there are steps.
        steps: optimizer steps.
    """

    minutes: float = MINUTES
    steps: int | None = None

    def share(self, step: int, spent_s: float) -> float:
        """The share that `step` steps in `spent_s` seconds have used, 0 to 1; the learning rate follows it."""
        used = step / self.steps if self.steps else spent_s / (60 * self.minutes)
        return min(1.0, used)

    def is_used(self, step: int, spent_s: float) -> bool:
        """Whether nothing is left."""
        return self.share(step, spent_s) >= 1


def add_arguments(parser: argparse.ArgumentParser, batch: int, rate: float, save_s: float) -> None:
    """The arguments of both trainings."""
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--minutes", type=float, default=MINUTES, help="training time in all, over every resume")
    until.add_argument("--steps", type=int, help="instead: steps in all; the same weights every time")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step")
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--save-s", type=float, default=save_s, help="seconds between two saved states")
    parser.add_argument("--device", default=best_device().type, help="cpu, cuda or mps; cuda is the quickest")
    precisions = ("auto", "fp32", "bf16")
    parser.add_argument("--precision", choices=precisions, default="auto", help="auto: bf16 where the hardware has it")


def budget_of(args: argparse.Namespace) -> Budget:
    """Raises SystemExit for a budget without any step."""
    if args.minutes <= 0 or (args.steps is not None and args.steps < 1):
        raise SystemExit("--minutes and --steps must be above 0")
    return Budget(args.minutes, args.steps)


def device_of(args: argparse.Namespace) -> torch.device:
    """The device, with fp32 products of tensor cores where it has any; noise and weights keep their full precision."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True  # batches have few shapes
    if args.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # torchrun numbers its processes
    return torch.device(args.device)


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """bf16 arithmetic where asked for, with `auto` where the hardware computes it; weights stay in full precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(precision, device) == "bf16")
