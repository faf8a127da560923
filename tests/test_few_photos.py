"""Too few photos to seal any: the whole command ends with an adapter, and no likeness is made up."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from trainer.evaluate.nulls import NOT_MEASURED, UNSEALED


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, demo_files: list[Path], fast: list[str], command: Command, weights: Path
) -> Path:
    """A whole run of a subject with five photos."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "subjects/few/photos").mkdir(parents=True)
    for index, file in enumerate(demo_files[:5]):
        shutil.copyfile(file, folder / f"subjects/few/photos/{index}.jpg")
    done = command(folder, "train", "few", "--json", *fast)
    assert done.returncode == 0, done.stderr
    (folder / "said.json").write_text(done.stdout)
    return folder


@pytest.fixture
def result(home: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((home / "said.json").read_text())["result"]
    return said


@pytest.fixture
def card(home: Path, result: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((home / result["scorecard"]).read_text())
    return said


def test_all_photos_are_fitted_on_and_the_last_checkpoint_is_exported(home: Path, result: dict[str, Any]) -> None:
    facts = result["stages"]["1_prepare"]
    assert (facts["fit"], facts["select"], facts["report"]) == (5, 0, 0)
    assert len(list((home / result["run"] / "1_prepare/images").glob("*.png"))) == 5
    assert result["stages"]["4_export"]["step"] == 8
    assert (home / result["adapter"]).is_file()


def test_nothing_is_said_of_the_likeness_but_why_and_what_to_do(card: dict[str, Any], result: dict[str, Any]) -> None:
    assert card["verdict"] == result["stages"]["3_evaluate"]["verdict"] == "unmeasurable"
    assert "5 photos are too few" in card["reasons"][0]
    assert card["advice"][0].startswith("add photos")
    unknown = [*card["identity"].values(), *card["copying"].values(), *(row["identity"] for row in card["by_prompt"])]
    assert all(value in (None, [None, None]) for value in unknown)
    assert card["checkpoints"] == []
    assert (
        card["nulls"].items() >= {"identity.mean": UNSEALED, "identity.ci95": UNSEALED, "leak.excess": UNSEALED}.items()
    )
    assert NOT_MEASURED not in card["nulls"].values()


def test_what_needs_no_sealed_photo_is_measured(card: dict[str, Any]) -> None:
    measured = [card["detection_rate"], card["prompt"]["base"], *(row["detected"] for row in card["by_prompt"])]
    assert all(math.isfinite(value) for value in measured)


def test_the_report_and_the_model_card_say_so(home: Path, result: dict[str, Any]) -> None:
    html = (home / result["scorecard"]).with_name("report.html").read_text(encoding="utf-8")
    assert "unmeasurable" in html
    assert "too few different shots" in html
    assert "Where the pictures lie" not in html
    model_card = (home / result["run"] / "4_export/README.md").read_text()
    assert "| of the ceiling | not measurable |" in model_card
    assert "too few different shots" in model_card


def test_every_command_that_reads_it_copes(
    home: Path, result: dict[str, Any], command: Command, fast: list[str]
) -> None:
    run = home / result["run"]
    printed = command(home, "train", "few", *fast)
    assert printed.returncode == 0, printed.stderr
    assert "not measurable" in printed.stdout
    said = json.loads(command(home, "inspect", home / result["adapter"], "--json").stdout)["result"]
    assert (said["metadata"]["likeness.of_ceiling"], said["metadata"]["likeness.verdict"]) == ("null", "unmeasurable")
    compared = json.loads(command(home, "compare", run, run, "--json").stdout)["result"]
    assert compared["differences"][0]["of_ceiling"] is None
    replayed = command(home, "replay", run, "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["result"]["of_ceiling"] == {"then": None, "now": None}


def test_a_gate_is_missed_by_what_cannot_be_measured(home: Path, command: Command, fast: list[str]) -> None:
    done = command(home, "train", "few", "--json", *fast, "--set", "evaluate.gate=0.1")
    assert done.returncode == 5
