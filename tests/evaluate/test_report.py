"""The report of scorecards that an ordinary run does not have: two people in a picture, nobody sealed, an early end."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.evaluate.gallery import Gallery
from trainer.evaluate.judge import Seen
from trainer.evaluate.prompts import leak_prompts, report_prompts
from trainer.evaluate.report import LEAKS, Shown, write_report
from trainer.evaluate.scorecard import NOBODY_BESIDE, Reals, leak
from trainer.records import Face, Floats, Prompt, Split

FACE = Face((8.0, 8.0, 56.0, 56.0), np.zeros((5, 2), np.float32), 0.9)
SPLIT = Split(("a", "b"), ("c",), ("d", "e"), (("a",), ("b",), ("c",), ("d",), ("e",)))


def vectors(count: int, seed: int) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def gallery(prompts: list[Prompt], seed: int) -> Gallery:
    """One picture a prompt, of anybody."""
    rng = np.random.default_rng(seed)
    pictures = [[rng.integers(0, 256, (64, 64, 3), np.uint8)] for _ in prompts]
    return Gallery(prompts, pictures, Seen(vectors(len(prompts), seed), (FACE,) * len(prompts)))


@pytest.fixture
def shown() -> Shown:
    portrait = np.zeros((64, 64, 3), np.uint8)
    reals = Reals(SPLIT, ("d", "e"), vectors(2, 1), vectors(3, 2), vectors(9, 3))
    asked, untriggered = report_prompts("attributes", "ohwx person"), leak_prompts("attributes", "person")
    sides = gallery(asked, 4), gallery(asked, 5)
    return Shown([portrait] * 2, [portrait] * 2, *sides, reals, gallery(untriggered, 6), gallery(untriggered, 7))


@pytest.fixture
def card(trained: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((trained["home"] / trained["result"]["scorecard"]).read_text())
    return said


def written(card: dict[str, Any], shown: Shown, folder: Path) -> str:
    write_report(folder / "report.html", card, shown, "ohwx")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_whoever_stands_beside_is_shown_or_why_nobody_is(card: dict[str, Any], shown: Shown, tmp_path: Path) -> None:
    assert shown.leak
    assert shown.base_leak
    galleries = {"leak": shown.leak, "base_leak": shown.base_leak}
    measured = leak(galleries, (0.31, 0.1), shown.reals.sealed, None)
    assert (measured["beside_excess"], "beside_reason" in measured) == (pytest.approx(0.21), False)
    assert "+0.210" in written(card | {"leak": measured}, shown, tmp_path)
    nobody = leak(galleries, (0.31, None), shown.reals.sealed, None)
    assert (nobody["beside"], nobody["beside_base"], nobody["beside_excess"]) == (0.31, None, None)
    assert nobody["beside_reason"] == NOBODY_BESIDE
    assert NOBODY_BESIDE in written(card | {"leak": nobody}, shown, tmp_path)


def test_the_leak_test_shows_its_pictures_with_and_without_the_adapter(
    card: dict[str, Any], shown: Shown, tmp_path: Path
) -> None:
    html = written(card, shown, tmp_path)
    section = html.partition("Does it answer to its name alone?")[2].partition("<h2>")[0]
    assert section.count("<img") == 2 * LEAKS
    assert shown.leak
    likeness = float(shown.leak.cosines(shown.reals.sealed).mean(2)[0, 0])
    assert f"<figcaption>{likeness:.3f}</figcaption>" in section
    assert "ohwx" in section.partition("<table")[0]
    assert "ohwx" not in section.partition("<table")[2]  # the prompts do without it


def test_an_early_end_is_said(card: dict[str, Any], shown: Shown, tmp_path: Path) -> None:
    said = "ended before its last step"
    assert said not in written(card, shown, tmp_path)
    assert said in written(card | {"cost": card["cost"] | {"stopped_early": True}}, shown, tmp_path)


def test_names_that_look_like_markup_stay_text(card: dict[str, Any], shown: Shown, tmp_path: Path) -> None:
    html = written(card | {"reasons": ["<script>alert(1)</script>"]}, shown, tmp_path)
    assert not re.search(r"<script", html)
