"""fit.stop_after: a checkpoint gets the score by which it is chosen later, and no report photo is opened for it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from PIL import Image

from trainer.album import read_album
from trainer.bases.base import Base, get_base
from trainer.bases.sampling import picture_name
from trainer.console import Console
from trainer.evaluate.check import ADAPTER, Checks
from trainer.evaluate.prompts import report_prompts, select_prompts
from trainer.evaluate.stage import Evaluator
from trainer.faces.align import crop_square
from trainer.fit.checkpoint import find_checkpoints
from trainer.pictures import open_picture
from trainer.prepare.stage import read_framed, read_split
from trainer.recipe import Recipe
from trainer.records import Checkpoint
from trainer.run import sha256_of
from trainer.scoring import Scoring

PROMPTS = 11
EARLY = ["--set", "fit.stop_after=1", "--set", "fit.checkpoint_every=2"]


@pytest.fixture(scope="module")
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


@pytest.fixture
def run(copied: Path, trained: dict[str, Any]) -> Path:
    folder: Path = copied / trained["result"]["run"]
    return folder


def evaluator_of(home: Path, run: Path, folder: Path, sees_report: bool = True) -> Evaluator:
    """The run's own evaluator, over its photos, as the stage or as a check during the fit has it."""
    recipe = Recipe.model_validate(json.loads((run / "lock.json").read_text())["recipe"])
    split = read_split(run / "1_prepare")
    scoring = Scoring(recipe, read_album(home / "subjects/zelda/photos", home / "unpacked"), Console())
    seen = split if sees_report else replace(split, report=())
    evaluator = scoring.evaluator(run / "1_prepare", folder, seen)
    evaluator.settings = replace(evaluator.settings, select_prompts=PROMPTS)
    return evaluator


def lay_out(photos: list[Path], framed: Any, checkpoint: Checkpoint, base: Base, folder: Path) -> None:
    """These photos in the place of what the checkpoint makes for the choice."""
    target = folder / f"samples/select/{checkpoint.step:06d}"
    target.mkdir(parents=True)
    (target / ADAPTER).write_text(sha256_of(checkpoint.adapter))
    for index, _ in enumerate(select_prompts(report_prompts(base.prompt_set, "ohwx person"), PROMPTS)):
        photo = photos[index % len(photos)]
        portrait = crop_square(open_picture(photo, 10**8).rgb_u8, *framed[photo.name].frame, 128)
        Image.fromarray(portrait).save(target / picture_name(index, 1))


def test_a_check_says_what_the_choice_will_say_and_opens_no_report_photo(
    copied: Path, run: Path, base: Base, tmp_path: Path
) -> None:
    checkpoint, split = find_checkpoints(run / "2_fit")[0], read_split(run / "1_prepare")
    photos, framed = copied / "subjects/zelda/photos", read_framed(run / "1_prepare")
    for folder in ("during", "after"):
        lay_out([photos / name for name in split.select], framed, checkpoint, base, tmp_path / folder)
    later = evaluator_of(copied, run, tmp_path / "after").candidate(checkpoint)

    during = evaluator_of(copied, run, tmp_path / "during", sees_report=False)
    for name in split.report:
        (photos / name).write_bytes(b"sealed")
    assert Checks(lambda: during)(checkpoint) == later.score > 0.1
    assert list(during._albums) == [during.eyes.gate.name]  # the judge has not looked

    during.settings = replace(during.settings, copying_limit=later.copying - 0.01)
    assert Checks(lambda: during)(checkpoint) == 0.0


def test_pictures_of_another_adapter_are_made_anew(copied: Path, run: Path, tmp_path: Path) -> None:
    first, other = find_checkpoints(run / "2_fit")
    checks = Checks(lambda: evaluator_of(copied, run, tmp_path / "checks", sees_report=False))
    checks(first)
    files = sorted((tmp_path / "checks").rglob("*.png"))
    assert len(files) == PROMPTS
    times = [file.stat().st_mtime_ns for file in files]
    checks(first)
    assert [file.stat().st_mtime_ns for file in files] == times
    checks(Checkpoint(first.step, other.adapter))
    assert all(file.stat().st_mtime_ns > time for file, time in zip(files, times, strict=True))


def test_the_command_ends_early_and_the_evaluation_takes_the_pictures_of_the_checks(
    copied: Path, trained: dict[str, Any], command: Command
) -> None:
    arguments = [*trained["arguments"][1:], *EARLY]
    fitted = command(copied, "fit", *arguments)
    assert fitted.returncode == 0, fitted.stderr
    said = json.loads(fitted.stdout)["result"]
    # A random base shows nobody: no checkpoint scores more than 0, and the second is one too many.
    assert said["stages"]["2_fit"].items() >= {"steps": 4, "stopped_early": True}.items()
    fit = copied / said["run"] / "2_fit"
    assert [one.step for one in find_checkpoints(fit)] == [2, 4]
    kept = sorted((fit / "checks/samples/select").glob("*/*.png"))
    assert len(kept) == 2 * 2  # checkpoints and prompts

    done = command(copied, *trained["arguments"], *EARLY)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["reused"] == ["1_prepare", "2_fit"]
    samples = copied / result["run"] / "3_evaluate/samples/select"
    for file in kept:  # copies keep the time, and what is made anew has a later one
        taken = samples / file.parent.name / file.name
        assert taken.stat().st_mtime_ns == file.stat().st_mtime_ns
        assert taken.read_bytes() == file.read_bytes()
    card = json.loads((copied / result["scorecard"]).read_text())
    assert [row["step"] for row in card["checkpoints"]] == [2, 4]
    assert card["cost"]["stopped_early"] is True
    assert "The fit ended before its last step" in (copied / result["scorecard"]).with_name("report.html").read_text()

    shutil.rmtree(copied / result["run"] / "3_evaluate")
    again = command(copied, *trained["arguments"], *EARLY, "--set", "evaluate.select_prompts=3")
    assert json.loads(again.stdout)["result"]["reused"] == ["1_prepare"]  # another check, another fit
