"""The identity loss from the command: landmarks, doubts, and no judge that has taught."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from trainer.errors import UsageError
from trainer.fit.cache import read_samples
from trainer.recipe import Recipe
from trainer.sections import FacesSection, FitSection
from trainer.taught import taught_by_gate, teacher_name, teacher_of

ON = ["--set", "fit.identity_weight=0.1"]
DLIB_JUDGES = ["--set", "faces.judge=dlib", "--set", "faces.gate=onnx"]


def test_a_run_says_who_taught_it_and_the_teacher_cannot_judge_it(
    photos: Path, tmp_path: Path, cli: Command, fast: list[str]
) -> None:
    done = cli("train", "alice", "--photos", "photos", "--json", *fast, *ON)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    run = tmp_path / result["run"]
    for sample, row in zip(read_samples(run / "1_prepare"), rows_of(run), strict=True):
        assert set(row) == {"file_name", "text", "face_box", "landmarks"}
        assert sample.landmarks is not None
        left, top, right, bottom = sample.face_box
        assert np.all((sample.landmarks > (left, top)) & (sample.landmarks < (right, bottom)))
        eyes, mouth = sample.landmarks[:2], sample.landmarks[3:]
        assert eyes[0, 0] < eyes[1, 0]
        assert eyes[:, 1].max() < mouth[:, 1].min()
    card = json.loads((run / "3_evaluate/scorecard.json").read_text())
    (doubt,) = taught_by_gate(Recipe(fit=FitSection(identity_weight=0.1)))
    assert doubt in card["reasons"]
    assert card["judge"]["name"].startswith("onnx")
    adapter = tmp_path / result["adapter"]
    assert json.loads(cli("inspect", adapter, "--json").stdout)["result"]["metadata"]["likeness.taught_by"] == "dlib"
    refused = cli("evaluate", "alice", "--photos", "photos", "--adapter", adapter, *fast, *DLIB_JUDGES)
    assert refused.returncode == UsageError.exit_status == 2
    assert "taught by dlib" in refused.stderr


def rows_of(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "1_prepare/metadata.jsonl").read_text().splitlines()]


def test_a_judge_that_teaches_is_refused_at_the_door(photos: Path, cli: Command, fast: list[str]) -> None:
    done = cli("fit", "alice", "--photos", "photos", *fast, *ON, *DLIB_JUDGES)
    assert done.returncode == UsageError.exit_status == 2
    assert "fit.identity_weight" in done.stderr
    assert "another judge" in done.stderr


def test_a_judge_that_teaches_is_refused_without_the_door() -> None:
    recipe = Recipe(faces=FacesSection(gate="onnx", judge="dlib"), fit=FitSection(identity_weight=0.1))
    with pytest.raises(UsageError, match="dlib"):
        teacher_of(recipe)
    assert teacher_of(Recipe()) is None


def test_a_style_has_no_face_to_learn(cli: Command) -> None:
    said = ["--set", "prepare.subject_kind=style", "--set", "prepare.class_word=style"]
    done = cli("recipe", "check", "portrait-tiny", *said, *ON)
    assert done.returncode == UsageError.exit_status
    assert "fit.identity_weight: a style has no face" in done.stderr


def test_the_plan_does_not_guess_what_it_does_not_count(cli: Command) -> None:
    done = cli("plan", *ON)
    assert done.returncode == UsageError.exit_status
    assert "identity_weight=null" in done.stderr


def test_another_gate_is_no_doubt() -> None:
    on = FitSection(identity_weight=0.1)
    assert taught_by_gate(Recipe(faces=FacesSection(gate="insightface"), fit=on)) == []
    assert taught_by_gate(Recipe()) == []
    assert teacher_name(Recipe()) is None
    assert teacher_name(Recipe(fit=on)) == "dlib"
