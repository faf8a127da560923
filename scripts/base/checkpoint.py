"""Where a training stands: weights, their average, the optimizer, steps and time, saved whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

Parts = dict[str, Any]
Choices = dict[str, str | int]  # arguments by which a state means something else, such as {"size": "lean"}


def resume(state: Path, parts: Parts, choices: Choices) -> tuple[int, float]:
    """Load every part from `state` where there is one; the steps made and seconds spent so far.

    Raises SystemExit for a state of other choices.
    """
    if not state.exists():
        return 0, 0.0
    saved = torch.load(state, map_location="cpu", weights_only=True)
    made_by = saved.get("choices")
    if made_by != choices:
        differs = [f"--{name} {value}" for name, value in (made_by or {}).items() if choices.get(name) != value]
        raise SystemExit(
            f"{state}: saved by a training with {' '.join(differs) or 'other arguments'}; give those, or another --out"
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["step"], saved["spent_s"]


def save(state: Path, parts: Parts, choices: Choices, step: int, spent_s: float) -> None:
    """Write every part beside `state`, then put it in place."""
    whole = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**whole, "choices": choices, "step": step, "spent_s": spent_s}, state.with_suffix(".part"))
    state.with_suffix(".part").replace(state)


def start_from(model: torch.nn.Module, weights: dict[str, torch.Tensor], but: tuple[str, ...] = ()) -> None:
    """Load `weights` into `model`, which keeps its own in the layers whose names begin as in `but`."""
    own = {name: weight for name, weight in model.state_dict().items() if name.startswith(but)}
    model.load_state_dict(weights | own)


def log(file: Path, line: dict[str, float]) -> None:
    """Add one line to the learning curve and show it."""
    with file.open("a") as curve:
        curve.write(json.dumps(line) + "\n")
    print(line, flush=True)
