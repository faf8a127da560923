"""Does the file make the pictures that were scored?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.adapter import Tensors, read_adapter, tensors_sha256
from trainer.bases.base import Base
from trainer.errors import IntegrityError
from trainer.layouts.layers import diffusers_reads_kohya, read_layers, to_diffusers
from trainer.records import RGB

TOLERANCE = 2  # levels of 255


def check_twin(base: Base, twin: Path, tensors: Tensors, evaluated: Path) -> int | None:
    """As `check_parity`, for the kohya file of these tensors, which must also read back as them, bit for bit.

    None where diffusers has no reader for this layout of the base.
    """
    layers = read_layers(twin, *read_adapter(twin))
    if tensors_sha256(to_diffusers(layers)[0]) != tensors_sha256(tensors):
        raise IntegrityError(f"{twin.name} reads back as another adapter", "set export.kohya=false and report this")
    return check_parity(base, twin, evaluated) if diffusers_reads_kohya(layers) else None


def worst(levels: Mapping[str, int | None]) -> int:
    """The largest difference of the files whose pictures were made."""
    return max(level for level in levels.values() if level is not None)


def check_parity(base: Base, adapter: Path, evaluated: Path) -> int:
    """Largest difference, in levels, between the scored pictures of the first batch and those of the reloaded file.

    The adapter goes through diffusers' own loader, into a base that has just been read from its files.

    Raises IntegrityError above 2 of 255 levels, and, naming the layer, for a file that is not taken whole.
    """
    batch = json.loads((evaluated / "samples/adapter.json").read_text(encoding="utf-8"))
    made: dict[int, RGB] = {}
    base.use_adapter(adapter)
    base.sample(
        batch["prompts"], batch["seeds"], batch["steps"], batch["guidance"], len(batch["prompts"]), made.__setitem__
    )
    largest = 0
    for index, name in enumerate(batch["files"]):
        scored = np.asarray(Image.open(evaluated / "samples" / name).convert("RGB"), np.int16)
        largest = max(largest, int(np.abs(scored - made[index].astype(np.int16)).max()))
    if largest > TOLERANCE:
        raise IntegrityError(
            f"{adapter.name}: its pictures differ by {largest} of 255 levels from the scored ones, at most {TOLERANCE}",
            "set export.dtype=fp32, or evaluate.precision=fp32, and run again",
        )
    return largest
