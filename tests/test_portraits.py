"""trainer portrait: ranked pictures of a finished run, made once, of its own adapter and base."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, hashes
from PIL import Image

from trainer.bases.sampling import sample_prompts
from trainer.console import Console
from trainer.errors import IntegrityError
from trainer.portrait.provenance import GENERATED, XMP_KEY
from trainer.portraits import Asked, make_portraits


@pytest.fixture
def run(copied: Path) -> Path:
    found: Path = (copied / "runs/zelda/latest").resolve()
    return found


@pytest.fixture
def portrait(cli: Command, run: Path) -> Command:
    return lambda *more: cli("portrait", "zelda", "--run", run, "--count", "3", "--json", *more)


def result_of(done: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(done.stdout)["result"]
    return said


def test_the_asked_number_is_kept_ranked_marked_and_made_once(portrait: Command, run: Path) -> None:
    done = portrait()
    assert done.returncode == 0, done.stderr
    said = result_of(done)
    folder = Path(said["folder"])
    assert folder.parent == run / "5_portrait"
    assert folder.name.startswith("headshot-")
    assert said["candidates"] == 6
    assert [one["file"] for one in said["portraits"]] == ["01.png", "02.png", "03.png"]
    assert len({one["seed"] for one in said["portraits"]}) == 3
    listed = json.loads((folder / "portraits.json").read_text())
    assert listed["portraits"] == said["portraits"]
    for one in said["portraits"]:
        with Image.open(folder / one["file"]) as image:
            assert image.size == (128, 128)
            assert GENERATED in image.info[XMP_KEY]
    assert not (folder / "candidates").exists()

    before = hashes(run)
    assert result_of(portrait()) == said
    assert hashes(run) == before
    other = result_of(portrait("--seed", "100", "--prompt", "smiling"))
    assert Path(other["folder"]).name.startswith("prompt-")
    assert other["portraits"][0]["prompt"] == "photo of ohwx person, smiling"
    assert folder.exists()  # one wish does not replace another


def test_an_interrupted_one_goes_on_with_the_pictures_it_left(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = Asked("sides", count=3)
    whole = make_portraits(shutil.copytree(run, tmp_path / "whole"), asked, Console(quiet=True))

    def stopped(*arguments: Any) -> int:
        sample_prompts(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.portrait.stage.sample_prompts", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_portraits(run, asked, Console(quiet=True))
    (part,) = (run / "5_portrait").glob(".sides-*.part")
    left = hashes(part / "candidates")
    assert len(left) == 6

    def must_find_all(*arguments: Any) -> int:
        assert sample_prompts(*arguments) == 0
        return 0

    monkeypatch.setattr("trainer.portrait.stage.sample_prompts", must_find_all)
    resumed = make_portraits(run, asked, Console(quiet=True))
    assert resumed["portraits"] == whole["portraits"]
    names = [one["file"] for one in whole["portraits"]]
    then, now = (hashes(Path(one["folder"])) for one in (whole, resumed))
    assert all(then[name] == now[name] for name in names)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--style", "painting"], "no style called 'painting'"),
        (["--count", "0"], "--count and --tries"),
        (["--tries", "9999"], "--count and --tries"),
        (["--seed", "-1"], "--seed"),
        (["--prompt", " "], "the prompt is empty"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_made(
    portrait: Command, run: Path, more: list[str], told: str
) -> None:
    before = hashes(run)
    done = portrait(*more)
    assert done.returncode == 2
    assert told in json.loads(done.stdout)["error"]["message"]
    assert hashes(run) == before


def test_a_subject_without_a_finished_run_is_told_what_to_do(cli: Command) -> None:
    done = cli("portrait", "nobody")
    assert done.returncode == 2
    assert "is no finished run" in done.stderr
    assert cli("portrait", "../zelda").returncode == 2


def test_a_changed_adapter_or_base_is_an_integrity_error(portrait: Command, run: Path) -> None:
    lock = json.loads((run / "lock.json").read_text())
    (run / "lock.json").write_text(json.dumps(lock | {"base_sha256": "0" * 64}))
    done = portrait()
    assert done.returncode == 6
    assert "is not the one of" in done.stderr
    (run / "lock.json").write_text(json.dumps(lock))
    with (run / "4_export/zelda.safetensors").open("ab") as file:
        file.write(b" ")
    assert portrait().returncode == 6


def test_no_sealed_photo_is_opened(run: Path, copied: Path) -> None:
    shutil.rmtree(copied / "subjects")  # the photos themselves are not needed at all
    made = make_portraits(run, Asked("headshot", count=1, tries=1), Console(quiet=True))
    assert len(made["portraits"]) == 1
    shutil.rmtree(run / "1_prepare")
    with pytest.raises(IntegrityError, match="1_prepare is not whole"):
        make_portraits(run, Asked("headshot"), Console(quiet=True))
