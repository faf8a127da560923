"""Where the lines and bars of the report lie, in pixels of their own picture; the template draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.records import Floats

BINS = 48


def checkpoint_curve(checkpoints: Sequence[Mapping[str, Any]], width: int = 640, height: int = 180) -> dict[str, Any]:
    """Where the likeness of each checkpoint lies in a picture of that many pixels; 0 is on the floor line."""
    floor = height - 24
    top = max((row["identity_select"] for row in checkpoints), default=0.0)
    scale = (floor - 30) / top if top > 0 else 0.0
    points = [
        {
            **row,
            "identity": row["identity_select"],
            "x": round(width * (index + 0.5) / len(checkpoints)),
            "y": round(floor - scale * max(0.0, row["identity_select"])),
        }
        for index, row in enumerate(checkpoints)
    ]
    return {"width": width, "height": height, "floor": floor, "points": points}


def distributions(named: Mapping[str, Floats], width: int = 640, row_px: int = 56) -> dict[str, Any]:
    """One row of bars a name over a shared axis of cosines: the share of its values in each of `BINS` bins.

    Bars of a row are scaled to the row's highest. Rows without values are left out.
    """
    rows = {name: np.asarray(values, np.float64).ravel() for name, values in named.items() if np.size(values)}
    low = min(float(values.min()) for values in rows.values())
    high = max(float(values.max()) for values in rows.values())
    low, high = np.floor(low * 10) / 10, max(np.ceil(high * 10) / 10, np.floor(low * 10) / 10 + 0.1)

    def x(value: float) -> float:
        return round(float(width * (value - low) / (high - low)), 1)

    drawn = []
    for index, (name, values) in enumerate(rows.items()):
        counts, edges = np.histogram(values, BINS, (low, high))
        floor = (index + 1) * row_px
        bars = [
            {"x": x(float(edge)), "y": floor - round((row_px - 22) * count / counts.max(), 1), "floor": floor}
            for edge, count in zip(edges[:-1], counts, strict=True)
            if count
        ]
        drawn.append({"name": name, "floor": floor, "bars": bars, "mean": float(values.mean()), "x": x(values.mean())})
    ticks = [{"x": x(float(value)), "value": float(value)} for value in np.arange(low, high + 0.01, 0.2).round(1)]
    height = len(rows) * row_px + 20
    return {"width": width, "height": height, "bar": width / BINS, "rows": drawn, "ticks": ticks}
