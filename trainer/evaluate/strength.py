"""The last checkpoint at less than its full strength: what was learned too hard obeys again, and is often more like.

A LoRA's change to the base is scaled as users do by hand; it needs no training (arXiv 2106.09685, section 4.1: alpha).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.adapter import kind_of, read_adapter, scaled, write_adapter
from trainer.records import Checkpoint


def weaker(checkpoint: Checkpoint, strengths: Sequence[float], folder: Path) -> list[Checkpoint]:
    """The checkpoint at these strengths, 0 to 1, as files in the folder, the strongest first.

    None of a DoRA: its lengths do not scale with its change.
    """
    tensors, metadata = read_adapter(checkpoint.adapter)
    if kind_of(tensors) == "dora":
        return []
    made = []
    for strength in sorted(set(strengths) - {1.0}, reverse=True):
        file = folder / f"{strength:g}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        write_adapter(file, scaled(tensors, strength), metadata)
        made.append(Checkpoint(checkpoint.step, file, strength))
    return made


def checkpoint_name(step: int, strength: float) -> str:
    """Such as "400", or "400 at 0.8" of a weaker one."""
    return str(step) if strength == 1.0 else f"{step} at {strength:g}"
