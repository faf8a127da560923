"""Checkpoints to choose from, and the one state from which an interrupted fit goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from trainer.adapter import read_adapter, write_adapter
from trainer.errors import IntegrityError
from trainer.fit.lora import lora_tensors, restore_lora
from trainer.records import Checkpoint

STATE = "state.safetensors"
ADAPTER = "adapter.safetensors"
METRICS = "metrics.jsonl"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(folder: Path, step: int, denoiser: torch.nn.Module, scale: float, component: str) -> None:
    """Write checkpoints/step-NNNNNN/adapter.safetensors."""
    target = folder / "checkpoints" / f"step-{step:06d}"
    target.mkdir(parents=True, exist_ok=True)
    write_adapter(target / ADAPTER, lora_tensors(denoiser, scale, component), {"format": "pt"})


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Every checkpoint of a finished fit, first step first."""
    found = sorted((folder / "checkpoints").glob(f"step-*/{ADAPTER}"))
    return [Checkpoint(int(path.parent.name.removeprefix("step-")), path) for path in found]


def save_state(
    folder: Path, step: int, spent_s: float, denoiser: torch.nn.Module, optimizer: torch.optim.AdamW
) -> None:
    """Write the adapter and the optimizer's moments after `step` steps, in one file and in one move."""
    tensors = lora_tensors(denoiser, 1.0)
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        moments = optimizer.state[parameter]
        tensors |= {f"optimizer.{index}.{name}": moments[name] for name in MOMENTS}
    write_adapter(folder / STATE, tensors, {"step": str(step), "spent_s": f"{spent_s:.3f}"})


def load_state(folder: Path, denoiser: torch.nn.Module, optimizer: torch.optim.AdamW) -> tuple[int, float]:
    """Restore the last state; the steps made and the seconds spent so far, (0, 0.0) where there is none."""
    if not (folder / STATE).is_file():
        return 0, 0.0
    try:
        tensors, metadata = read_adapter(folder / STATE)
        step, spent_s = int(metadata["step"]), float(metadata["spent_s"])
        restore_lora(denoiser, {name: t for name, t in tensors.items() if not name.startswith("optimizer.")})
        for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
            moments = {name: tensors[f"optimizer.{index}.{name}"].to(parameter.device) for name in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    except (IntegrityError, KeyError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{folder / STATE} does not fit: {error}", "run again with --fresh") from None
    _truncate_metrics(folder / METRICS, step)
    return step, spent_s


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines of steps that will be made again, and a line that was cut off."""
    if path.is_file():
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                break
        path.write_text("".join(kept), encoding="utf-8")
