"""Likeness: photos of a person to a LoRA adapter with an honest score.

`trainer.train("alice", photos="selfies")` does what the command does; `trainer.Recipe` is every choice of a run.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Recipe", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from trainer.pipeline import train

        return train
    if name in ("Recipe", "load_recipe"):
        from trainer import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
