"""How near a replayed run comes to its original, where another machine or version rounds sums otherwise."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.adapter import read_adapter
from trainer.export.resize import relative_error
from trainer.jobs import EVALUATE, EXPORT, FIT
from trainer.layouts.header import SUFFIX
from trainer.layouts.layer import Layers
from trainer.layouts.layers import read_layers
from trainer.layouts.words import BESIDE

# What rounding may change, as `distances` counts it. Another seed starts from other factors, an update far above this.
TOLERANCE = {"losses": 0.05, "update": 0.5, "likeness": 1.0}


def distances(then: Path, now: Path) -> dict[str, float | None]:
    """Between two exported runs of one lock; None for what was not measured in one of them.

    `losses`: largest difference of a line of metrics.jsonl, as a share of the line's loss; 1 for other lines.
    `update`: norm of the difference of a layer's updates over the first one's, mean over the layers; 1 for a layer
    that only one adapter has.
    `likeness`: difference of the mean likeness over the half width of the first one's 95% interval.
    """
    return {"losses": _losses(then, now), "update": _update(then, now), "likeness": _likeness(then, now)}


def is_close(found: dict[str, float | None]) -> bool:
    """Whether all that was measured lies within `TOLERANCE`."""
    return all(value is None or value <= TOLERANCE[key] for key, value in found.items())


def _losses(then: Path, now: Path) -> float | None:
    rows = []
    for run in (then, now):
        lines = (run / FIT / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows.append({line["step"]: float(line["loss"]) for line in map(json.loads, lines)})
    if not rows[0] and not rows[1]:
        return None
    if rows[0].keys() != rows[1].keys():
        return 1.0
    return max(abs(rows[1][step] - loss) / abs(loss) if loss else 1.0 for step, loss in rows[0].items())


def _update(then: Path, now: Path) -> float:
    first, other = _exported(then), _exported(now)
    errors = [
        relative_error(first[name], other[name]) if name in first and name in other else 1.0
        for name in first.keys() | other.keys()
    ]
    return sum(errors) / len(errors)


def _exported(run: Path) -> Layers:
    others = (f".kohya{SUFFIX}", BESIDE)
    (file,) = [file for file in (run / EXPORT).glob(f"*{SUFFIX}") if not file.name.endswith(others)]
    return read_layers(file, *read_adapter(file))


def _likeness(then: Path, now: Path) -> float | None:
    cards = [json.loads((run / EVALUATE / "scorecard.json").read_text(encoding="utf-8")) for run in (then, now)]
    first, other = (card["identity"] for card in cards)
    low, high = first["ci95"]
    if None in (first["mean"], other["mean"], low, high) or high <= low:
        return None
    return float(abs(other["mean"] - first["mean"]) / ((high - low) / 2))
