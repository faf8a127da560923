"""report.html: real photos beside generated ones with their numbers, in one file that opens offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from trainer.faces.align import portrait_crop
from trainer.records import RGB, Face, Floats
from trainer.run import write_text

TILE_PX = 160


@dataclass(frozen=True, slots=True)
class Shown:
    """What the report shows.

    Attributes:
        real: the sealed report photos, whole.
        real_faces: the face in each.
        adapter: pictures by prompt and seed with the adapter; `base` without it.
        per_picture: (prompts, seeds) mean cosine to the sealed photos.
    """

    real: Sequence[RGB]
    real_faces: Sequence[Face | None]
    adapter: Sequence[Sequence[RGB]]
    base: Sequence[Sequence[RGB]]
    per_picture: Floats


def write_report(path: Path, card: dict[str, Any], shown: Shown) -> None:
    """Render the scorecard and the pictures into `path`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.3f}"
    crops = [portrait_crop(p, f.landmarks, TILE_PX) for p, f in zip(shown.real, shown.real_faces, strict=True) if f]
    rows = [
        {
            **said,
            "adapter": [
                {"uri": data_uri(p), "cosine": float(c)}
                for p, c in zip(shown.adapter[index], shown.per_picture[index], strict=True)
            ],
            "base": [data_uri(picture) for picture in shown.base[index]],
        }
        for index, said in enumerate(card["by_prompt"])
    ]
    html = environment.get_template("report.html.j2").render(
        card=card, real=[data_uri(c) for c in crops], rows=rows, curve=checkpoint_curve(card["checkpoints"])
    )
    write_text(path, html)


def checkpoint_curve(checkpoints: Sequence[dict[str, Any]], width: int = 640, height: int = 180) -> dict[str, Any]:
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


def data_uri(rgb_u8: RGB) -> str:
    """The picture as a PNG inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(rgb_u8).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
