"""Does the file make the pictures that were scored?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.bases.base import Base
from trainer.errors import IntegrityError
from trainer.records import RGB

TOLERANCE = 2  # levels of 255


def check_parity(base: Base, adapter: Path, evaluated: Path) -> int:
    """Largest difference, in levels, between the scored pictures of the first batch and those of the reloaded file.

    The adapter goes through diffusers' own loader, into a base that has just been read from its files.

    Raises IntegrityError above 2 of 255 levels.
    """
    batch = json.loads((evaluated / "samples/adapter.json").read_text(encoding="utf-8"))
    made: dict[int, RGB] = {}
    base.use_adapter(adapter)
    base.sample(
        batch["prompts"], batch["seeds"], batch["steps"], batch["guidance"], len(batch["prompts"]), made.__setitem__
    )
    worst = 0
    for index, name in enumerate(batch["files"]):
        scored = np.asarray(Image.open(evaluated / "samples" / name).convert("RGB"), np.int16)
        worst = max(worst, int(np.abs(scored - made[index].astype(np.int16)).max()))
    if worst > TOLERANCE:
        raise IntegrityError(
            f"{adapter.name}: its pictures differ by {worst} of 255 levels from the scored ones, at most {TOLERANCE}",
            "set export.dtype=fp32, or evaluate.precision=fp32, and run again",
        )
    return worst
