"""Checkpoints to choose from, and the state from which an interrupted fit goes on as if nothing had happened.

Two states are kept: a write that was cut off, or a file that the disk spoiled, costs some steps and never the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.adapter import read_adapter, tensors_sha256, write_adapter
from trainer.console import Console
from trainer.errors import IntegrityError
from trainer.fit.optimizer import Optimizer, optimizer_state, restore_optimizer
from trainer.records import Checkpoint
from trainer.run import fingerprint_of, write_text

STATE = "state.safetensors"
EARLIER_STATE = "state.earlier.safetensors"
ADAPTER = "adapter.safetensors"
METRICS = "metrics.jsonl"
Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Trained:
    """All that changes while fitting.

    Attributes:
        weights: the adapter's parameters by name, as `adapted.adapt` gives them.
        averages: their moving averages by the same names; empty where none are kept.
        optimizer: it moves `weights`.
    """

    weights: Mapping[str, Tensor]
    averages: Mapping[str, Tensor]
    optimizer: Optimizer


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Write checkpoints/step-NNNNNN/adapter.safetensors."""
    target = folder / "checkpoints" / f"step-{step:06d}"
    target.mkdir(parents=True, exist_ok=True)
    write_adapter(target / ADAPTER, tensors, {"format": "pt"})


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Every checkpoint of a finished fit, first step first."""
    found = sorted((folder / "checkpoints").glob(f"step-*/{ADAPTER}"))
    return [Checkpoint(int(path.parent.name.removeprefix("step-")), path) for path in found]


def save_state(folder: Path, step: int, spent_s: float, trained: Trained) -> None:
    """Write everything after `step` steps, with its checksum; the state before it becomes the earlier one."""
    kept, said = optimizer_state(trained.optimizer)
    tensors = {f"weights.{name}": tensor for name, tensor in trained.weights.items()}
    tensors |= {f"averages.{name}": tensor for name, tensor in trained.averages.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in kept.items()}
    metadata = {"step": str(step), "spent_s": f"{spent_s:.3f}", "optimizer": said}
    metadata["sha256"] = _checksum(tensors, metadata)
    if (folder / STATE).is_file():
        (folder / STATE).replace(folder / EARLIER_STATE)
    write_adapter(folder / STATE, tensors, metadata)


def load_state(folder: Path, trained: Trained, console: Console) -> tuple[int, float]:
    """Restore the newest whole state, saying which ones are not; steps made and seconds spent, else (0, 0.0).

    Raises IntegrityError for a whole state of another fit.
    """
    step, spent_s = 0, 0.0
    for name in (STATE, EARLIER_STATE):
        path = folder / name
        if not path.is_file():
            if name == STATE and (folder / EARLIER_STATE).is_file():
                console.say(f"{STATE} is missing: going back to {EARLIER_STATE}")
            continue
        try:
            tensors, metadata = _read_whole(path)
        except IntegrityError as error:
            console.say(f"{error.message}: {_next_of(folder, name)}")
            continue
        try:
            _restore(trained, tensors, metadata)
            step, spent_s = int(metadata["step"]), float(metadata["spent_s"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise IntegrityError(f"{path} does not fit: {error}", "run again with --fresh") from None
        break
    return step, spent_s


def truncate_lines(path: Path, step: int) -> None:
    """Drop the lines of steps that will be made again, and a line that was cut off; an empty file where none is."""
    kept = []
    path.touch()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    write_text(path, "".join(kept))


def remove_states(folder: Path) -> None:
    """Delete both states, and what a kill left of any file half written."""
    for path in [folder / STATE, folder / EARLIER_STATE, *folder.rglob(".*.part")]:
        path.unlink(missing_ok=True)


def _read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a state. Raises IntegrityError when it is cut off or any bit of it has changed."""
    tensors, metadata = read_adapter(path)
    if metadata.pop("sha256", "") != _checksum(tensors, metadata):
        raise IntegrityError(f"{path} is not what was written: its checksum differs")
    return tensors, metadata


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    return fingerprint_of(tensors=tensors_sha256(tensors), metadata=metadata)


def _next_of(folder: Path, name: str) -> str:
    if name == STATE and (folder / EARLIER_STATE).is_file():
        return f"going back to {EARLIER_STATE}"
    return "starting again from the first step"


@torch.no_grad()
def _restore(trained: Trained, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    for prefix, own in (("weights.", trained.weights), ("averages.", trained.averages)):
        kept = _below(tensors, prefix)
        if kept.keys() != own.keys():
            raise ValueError(f"other {prefix.rstrip('.')} than this fit has")
        for name, tensor in own.items():
            if kept[name].shape != tensor.shape:  # copy_ would broadcast
                raise ValueError(f"{name} has another shape")
            tensor.copy_(kept[name])
    restore_optimizer(trained.optimizer, _below(tensors, "optimizer."), metadata["optimizer"])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
