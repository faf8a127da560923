"""The benchmarks of the score go through a finished run from end to end, and count what they say they count."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import choice
import evaluation_time
import fakes
import numpy as np
import pytest
import reseed
import strengths

import subjects


@pytest.fixture
def at_home(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished run's home, where the benchmarks are started from."""
    monkeypatch.chdir(copied)
    return copied


def said(main: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that a script prints."""
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    capsys.readouterr()
    main()
    return capsys.readouterr().out.splitlines()


def test_another_seeds_score_is_set_against_the_interval(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(reseed.main, monkeypatch, capsys, "runs/zelda/latest", "--times", "2")
    # A random base shows nobody, whatever the seed: every picture scores 0, inside an interval of no width.
    assert lines[-1] == "inside the interval: 2 of 2"
    assert len(list(at_home.glob("build/reseed/*/*/*.png"))) == 2 * 11


def test_the_interval_counts_what_lies_inside_it() -> None:
    card = {"identity": {"of_ceiling": 0.5, "of_ceiling_ci95": [0.4, 0.6]}}
    words = reseed.words(card, [0.41, 0.5, 0.61])
    assert "inside the interval: 2 of 3" in words
    assert "moved by 0.067 on average, 0.110 at most; the interval is 0.200 wide" in words


def test_the_choice_is_set_against_the_last_checkpoint(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(choice.main, monkeypatch, capsys, "runs/zelda/latest")
    assert lines[0].startswith("zelda: step 4 over step 8: ")  # on a tie the earlier one is chosen
    assert lines[1].startswith("mean of 1: ")
    assert lines[1].endswith("; 0 chose the last one")


def test_fakes_are_set_beside_the_adapter(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (at_home / "people").mkdir()
    (at_home / "people/zelda").symlink_to(at_home / "subjects/zelda/photos")
    row = said(fakes.main, monkeypatch, capsys, "--runs", "runs", "--subjects", "people")[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert (cells[0], len(cells)) == ("zelda", len(fakes.HEADER))
    unseen, copies = float(cells[-2]), float(cells[-1])
    assert unseen < 0.1 < copies


def test_every_strength_is_set_beside_the_adapter_as_it_is(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (at_home / "people").mkdir()
    (at_home / "people/zelda").symlink_to(at_home / "subjects/zelda/photos")
    arguments = ["runs/zelda/latest", "--subjects", "people", "--strengths", "0.5"]
    rows = said(strengths.main, monkeypatch, capsys, *arguments)[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [["zelda", "8"], ["zelda", "8 at 0.5"]]
    assert {len(row) for row in cells} == {strengths.HEADER.count("|") - 1}
    made = at_home / "build/strengths/zelda"
    assert len(list(made.glob("*/8/samples/adapter/*.png"))) == len(list(made.glob("*/8-at-0.5/samples/adapter/*.png")))


def test_the_parts_of_an_evaluation_are_timed(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(at_home.glob("runs/zelda/latest/*/**/*"))
    lines = said(evaluation_time.main, monkeypatch, capsys, "runs/zelda/latest", "--base-kept")
    seconds = {line[:58].strip(): float(line[58:66]) for line in lines[1:-1]}
    parts = [words for words, *_ in evaluation_time.PARTS if len(words) - len(words.lstrip()) == 2]
    assert 0 < sum(seconds[words.strip()] for words in parts) <= seconds["evaluation"] + 0.1
    assert seconds["sampling"] > 0
    assert sorted(at_home.glob("runs/zelda/latest/*/**/*")) == before


def test_a_table_of_people_and_of_groups_goes_into_the_page(
    at_home: Path, fast: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (at_home / "people").mkdir()
    shutil.copytree(at_home / "subjects/zelda/photos", at_home / "people/zelda")
    shutil.copytree(at_home / "runs", at_home / "bench/runs", symlinks=True)
    (at_home / "groups.json").write_text(json.dumps({"zelda": {"sex": "woman"}}))
    (at_home / "page.md").write_text("before\n\n<!-- subjects: start -->\nold\n<!-- subjects: end -->\nafter\n")
    arguments = ["--subjects", "people", "--out", "bench", "--groups", "groups.json", "--table", "page.md", *fast]
    lines = said(subjects.main, monkeypatch, capsys, *arguments)
    page = (at_home / "page.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert [line for line in lines if line.startswith("| sex: woman | 1 |")]
    row = next(line for line in lines if line.startswith("| zelda | "))
    assert row.count("|") == subjects.HEADER.count("|")
    assert "unmeasurable" not in row


def test_ranks_of_equal_values_are_shared() -> None:
    assert subjects.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert subjects.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert subjects.spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(np.sqrt(3) / 2)
