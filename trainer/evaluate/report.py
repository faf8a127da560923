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
STRIP = 8  # real photos at most, and as many pictures beside them
LEAKS = 3  # prompts of the leak test that are shown


@dataclass(frozen=True, slots=True)
class Shown:
    """What the report shows.

    Attributes:
        sealed: portraits of the report photos; `fitted` of the fit photos, in the order of `reals.fitted`.
        adapter: pictures with the adapter; `base` without it.
        leak: pictures without the trigger, with the adapter; `base_leak` without it. None where nothing is sealed.
    """

    sealed: Sequence[RGB]
    fitted: Sequence[RGB]
    adapter: Gallery
    base: Gallery
    reals: Reals
    leak: Gallery | None = None
    base_leak: Gallery | None = None


def write_report(path: Path, card: dict[str, Any], shown: Shown, trigger: str) -> None:
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
        leaks=leak_rows(shown),
        trigger=trigger,
        strip=min(STRIP, len(shown.sealed)),
    )
    write_text(path, html)


def prompt_rows(card: dict[str, Any], shown: Shown) -> list[dict[str, Any]]:
    """Each prompt's numbers with its pictures, and where its interval lies between 0 and the ceiling, in percent."""
    pictures = _with_cosines(shown.adapter, shown.reals.sealed)
    return [
        {
            **said,
            "bar": _bar(said, card["identity"]["ceiling"]),
            "adapter": pictures[index],
            "base": [data_uri(picture) for picture in shown.base.pictures[index]],
        }
        for index, said in enumerate(card["by_prompt"])
    ]


def leak_rows(shown: Shown) -> list[dict[str, Any]]:
    """The first prompts of the leak test with their pictures and how like the person each is; none without sealed."""
    if shown.leak is None or shown.base_leak is None:
        return []
    prompts = shown.leak.prompts[:LEAKS]
    sides = [_with_cosines(gallery, shown.reals.sealed, LEAKS) for gallery in (shown.leak, shown.base_leak)]
    return [{"prompt": asked.text, "adapter": on, "base": off} for asked, on, off in zip(prompts, *sides, strict=True)]


def _with_cosines(gallery: Gallery, sealed: Floats, count: int | None = None) -> list[list[dict[str, Any]]]:
    """The first prompts' pictures, or all, with their mean cosine to the sealed photos; without any, with None."""
    pictures = gallery.pictures[:count]
    cosines = (
        gallery.cosines(sealed).mean(2)[:count].tolist() if len(sealed) else [[None] * len(row) for row in pictures]
    )
    return [
        [{"uri": data_uri(picture), "cosine": cosine} for picture, cosine in zip(row, values, strict=True)]
        for row, values in zip(pictures, cosines, strict=True)
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
