"""Does the file make the pictures that were scored?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.adapter import Tensors, read_whole, tensors_sha256
from trainer.bases.base import Base
from trainer.errors import IntegrityError
from trainer.layouts.layers import diffusers_reads_kohya, read_layers, to_diffusers
from trainer.layouts.words import bundled
from trainer.records import RGB

TOLERANCE = 2  # levels of 255
MEND = "set export.dtype=fp32, or evaluate.precision=fp32, and run again"
Judge = Callable[[Sequence[RGB]], Sequence[float]]
"""The likeness (-1 to 1) of each (height, width, 3) uint8 picture, as the report's judge sees it."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What a reloaded file's pictures are beside the scored ones of the first batch.

    Attributes:
        levels: largest difference, of 255; None where no picture could be made: diffusers cannot read the layout.
        likeness: their mean likeness less that of the scored ones; 0 for the very same pictures, without a look; None
            for others where no photo was sealed to be like.
    """

    levels: int | None
    likeness: float | None


def check_twin(base: Base, twin: Path, tensors: Tensors, evaluated: Path, judge: Judge | None) -> Parity:
    """As `check_parity`, for the kohya file of these tensors, which must also read back as them, bit for bit."""
    found, words, metadata = read_whole(twin)
    layers = read_layers(twin, found, metadata)
    if tensors_sha256(to_diffusers(layers)[0] | bundled(words)) != tensors_sha256(tensors):
        raise IntegrityError(f"{twin.name} reads back as another adapter", "set export.kohya=false and report this")
    return check_parity(base, twin, evaluated, judge) if diffusers_reads_kohya(layers) else Parity(None, None)


def worst(found: Iterable[Parity]) -> int:
    """The largest difference of the files whose pictures were made."""
    return max(one.levels for one in found if one.levels is not None)


def check_parity(base: Base, adapter: Path, evaluated: Path, judge: Judge | None) -> Parity:
    """The reloaded file beside the scored pictures of the first batch.

    The adapter goes through diffusers' own loader, into a base that has just been read from its files.

    Raises IntegrityError above 2 of 255 levels, for a likeness that left the half width of the scorecard's interval,
    and, naming the layer, for a file that is not taken whole.
    """
    batch = json.loads((evaluated / "samples/adapter.json").read_text(encoding="utf-8"))
    made: dict[int, RGB] = {}
    base.use_adapter(adapter)
    base.sample(
        batch["prompts"], batch["seeds"], batch["steps"], batch["guidance"], len(batch["prompts"]), made.__setitem__
    )
    scored = [np.asarray(Image.open(evaluated / "samples" / name).convert("RGB")) for name in batch["files"]]
    now = [made[index] for index in range(len(scored))]
    largest = max(int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max()) for a, b in zip(scored, now, strict=True))
    if largest > TOLERANCE:
        raise IntegrityError(
            f"{adapter.name}: its pictures differ by {largest} of 255 levels from the scored ones, at most {TOLERANCE}",
            MEND,
        )
    if not largest:
        return Parity(0, 0.0)
    return Parity(largest, None if judge is None else _likeness_change(adapter, evaluated, scored, now, judge))


def _likeness_change(adapter: Path, evaluated: Path, scored: Sequence[RGB], now: Sequence[RGB], judge: Judge) -> float:
    """Mean likeness of the pictures now less that of the scored ones, which the interval of the score must cover."""
    likeness = judge([*scored, *now])
    change = float(np.mean(likeness[len(scored) :]) - np.mean(likeness[: len(scored)]))
    low, high = json.loads((evaluated / "scorecard.json").read_text(encoding="utf-8"))["identity"]["ci95"]
    if abs(change) > (high - low) / 2:
        raise IntegrityError(
            f"{adapter.name}: the likeness of its pictures is {change:+.3f} off the scored ones', whose interval is "
            f"{(high - low) / 2:.3f} to either side",
            MEND,
        )
    return change
