"""report.html: real photos beside generated ones with their numbers, in one file that opens offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from trainer.evaluate.charts import checkpoint_curve, distributions
from trainer.evaluate.gallery import Gallery
from trainer.evaluate.scorecard import Reals
from trainer.records import RGB, Floats
from trainer.run import write_text

PAIRS = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """What the report shows.

    Attributes:
        sealed: portraits of the report photos; `fitted` of the fit photos, in the order of `reals.fitted`.
        adapter: pictures with the adapter; `base` without it.
    """

    sealed: Sequence[RGB]
    fitted: Sequence[RGB]
    adapter: Gallery
    base: Gallery
    reals: Reals


def write_report(path: Path, card: dict[str, Any], shown: Shown) -> None:
    """Render the scorecard and the pictures into `path`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.3f}"
    html = environment.get_template("report.html.j2").render(
        card=card,
        real=[data_uri(portrait) for portrait in shown.sealed],
        rows=prompt_rows(card, shown),
        curve=checkpoint_curve(card["checkpoints"]),
        spread=distributions(populations(shown)) if shown.sealed else None,
        pairs=nearest_pairs(shown),
    )
    write_text(path, html)


def prompt_rows(card: dict[str, Any], shown: Shown) -> list[dict[str, Any]]:
    """Each prompt's numbers with its pictures, and where its interval lies between 0 and the ceiling, in percent."""
    pictures, sealed = shown.adapter.pictures, shown.reals.sealed
    cosines = [[None] * len(row) for row in pictures] if not len(sealed) else shown.adapter.cosines(sealed).mean(2)
    return [
        {
            **said,
            "bar": _bar(said, card["identity"]["ceiling"]),
            "adapter": [
                {"uri": data_uri(picture), "cosine": None if cosine is None else float(cosine)}
                for picture, cosine in zip(pictures[index], cosines[index], strict=True)
            ],
            "base": [data_uri(picture) for picture in shown.base.pictures[index]],
        }
        for index, said in enumerate(card["by_prompt"])
    ]


def _bar(said: dict[str, Any], ceiling: float | None) -> list[float] | None:
    """Both ends and the middle of a prompt's interval, in percent of the way from 0 to the ceiling; None without."""
    if ceiling is None:
        return None
    return [float(np.clip(100 * end / max(ceiling, 1e-6), 0, 100)) for end in (*said["ci95"], said["identity"])]


def populations(shown: Shown) -> dict[str, Floats]:
    """Mean cosine to the sealed photos of each stranger, of each plain picture, and of each other real photo."""
    sealed, plain = shown.reals.sealed, shown.adapter.rows(style=False)
    return {
        "strangers": shown.reals.stranger_means(),
        "base alone": shown.base.cosines(sealed)[plain].mean(2),
        "with the adapter": shown.adapter.cosines(sealed)[plain].mean(2),
        "the person's other photos": (shown.reals.others @ sealed.T).mean(1),
    }


def nearest_pairs(shown: Shown) -> list[dict[str, Any]]:
    """The pictures that lie nearest to a fit photo, with that photo and the nearest sealed one; none without either."""
    if not shown.fitted or not shown.sealed:
        return []
    to_fit, to_sealed = (shown.adapter.seen.cosines(v) for v in (shown.reals.fitted, shown.reals.sealed))
    pictures = shown.adapter.flat()
    return [
        {
            "picture": data_uri(pictures[index]),
            "fit": data_uri(shown.fitted[int(to_fit[index].argmax())]),
            "fit_cosine": float(to_fit[index].max()),
            "sealed": data_uri(shown.sealed[int(to_sealed[index].argmax())]),
            "sealed_cosine": float(to_sealed[index].max()),
        }
        for index in np.argsort(-to_fit.max(1), kind="stable")[:PAIRS]
    ]


def data_uri(rgb_u8: RGB) -> str:
    """The picture as a PNG inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(rgb_u8).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
