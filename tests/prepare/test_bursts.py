"""The best of each burst: what is worse about a copy decides against it, and its name never does."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import ExifTags, Image, ImageEnhance, ImageFilter

from trainer.faces.base import get_detector, get_embedder
from trainer.prepare import stage
from trainer.prepare.bursts import best_of_bursts
from trainer.prepare.group import find_person
from trainer.prepare.looks import Sight, look
from trainer.prepare.quality import Limits
from trainer.prepare.sheet import Refused, write_sheet
from trainer.records import Photo, PhotoFile
from trainer.run import sha256_of
from trainer.sections import PrepareSection

SECTION = PrepareSection()
LIMITS = Limits(**{name: getattr(SECTION, name) for name in Limits.__slots__})
SECOND = "2024:05:17 12:00:00"


def softened(image: Image.Image, path: Path) -> None:
    image.filter(ImageFilter.GaussianBlur(1.5)).save(path, quality=95)


def small(image: Image.Image, path: Path) -> None:
    image.resize((image.width * 2 // 5, image.height * 2 // 5), Image.Resampling.LANCZOS).save(path, quality=95)


def forwarded(image: Image.Image, path: Path) -> None:
    image.save(path, quality=25)


def burnt(image: Image.Image, path: Path) -> None:
    ImageEnhance.Brightness(image).enhance(1.6).save(path, quality=95)


def cut(image: Image.Image, path: Path) -> None:
    image.crop((image.width * 3 // 10, 0, image.width, image.height)).save(path, quality=95)


@pytest.fixture(scope="module")
def photos_of(weights: Path) -> Callable[[list[Path]], list[Photo]]:
    """What is made of these files, each alone."""
    sight = Sight(get_detector(weights), get_embedder("dlib", weights), 10**8)

    def photos(files: list[Path]) -> list[Photo]:
        found: list[Photo] = []
        for path in files:
            file = PhotoFile(path.name, path, sha256_of(path))
            found += find_person([(file, look(path, sight))], LIMITS, 0.3).photos
        assert len(found) == len(files)
        return found

    return photos


@pytest.mark.parametrize("worse", [softened, small, forwarded, burnt, cut])
def test_a_worse_copy_gives_way_to_its_original_whatever_their_names(
    worse: Callable[[Image.Image, Path], None],
    photos_of: Callable[[list[Path]], list[Photo]],
    demo_files: list[Path],
    tmp_path: Path,
) -> None:
    for index, source in enumerate(demo_files[:4]):
        names = ("b.jpg", "a.jpg") if index % 2 else ("a.jpg", "b.jpg")
        original, copy = (tmp_path / name for name in names)
        shutil.copyfile(source, original)
        with Image.open(source) as image:
            worse(image.convert("RGB"), copy)
        kept, instead = best_of_bursts(photos_of([original, copy]), [("a.jpg", "b.jpg")], 128)
        assert [photo.name for photo in kept] == [original.name], source.name
        assert instead == {copy.name: original.name}


def test_the_face_that_looks_into_the_camera_is_kept(photos_of: Callable[[list[Path]], list[Photo]]) -> None:
    demo = Path(__file__).resolve().parents[2] / "subjects/demo/photos"
    photos = photos_of(sorted(demo.glob("*.jpg")))
    turn = {photo.name: abs(photo.measured["yaw_deg"] or 0) + abs(photo.measured["pitch_deg"] or 0) for photo in photos}
    gained = []
    for first, second in pairwise(photos):
        (kept,), _ = best_of_bursts([first, second], [(first.name, second.name)], 128)
        other = second if kept is first else first
        gained.append(turn[other.name] - turn[kept.name])
    assert np.mean(gained) > 0


def test_a_photo_alone_stays_and_of_equal_ones_the_hash_decides(
    photos_of: Callable[[list[Path]], list[Photo]], demo_files: list[Path]
) -> None:
    one, other = photos_of(demo_files[:2])
    assert best_of_bursts([other, one], [(one.name,), (other.name,)], 128) == ([other, one], {})
    for names in (("a", "b"), ("b", "a")):
        low, high = replace(one, name=names[0], sha256="0"), replace(one, name=names[1], sha256="1")
        assert best_of_bursts([high, low], [("a", "b")], 128) == ([low], {names[1]: names[0]})


@pytest.fixture
def album(tmp_path: Path, demo_files: list[Path]) -> dict[str, str]:
    """Twelve photos in `photos`, three of them with two worse copies each; the original by the copy's name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = SECOND
    copies = {}
    for index, file in enumerate(demo_files[:12]):
        original = folder / f"{index:02d}.jpg"
        shutil.copyfile(file, original)
        for worse in (softened, forwarded) if index < 3 else ():
            with Image.open(file) as image:
                worse(image.convert("RGB"), folder / f"{index:02d} {worse.__name__}.jpg")
            copies[f"{index:02d} {worse.__name__}.jpg"] = original.name
    return copies


def prepared(cli: Command, tmp_path: Path, *more: str) -> tuple[Path, dict[str, Any], dict[str, dict[str, Any]]]:
    """The stage's folder and facts, and the rejected rows by name."""
    done = cli("prepare", "alice", "--photos", "photos", "--json", *more)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    folder = tmp_path / result["run"] / "1_prepare"
    rows = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    return folder, result["stages"]["1_prepare"], {row["file"]: row for row in rows}


def test_only_the_best_goes_on_where_the_recipe_says_so(
    album: dict[str, str], tmp_path: Path, cli: Command, fast: list[str], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, facts, rejected = prepared(cli, tmp_path, *fast)
    assert rejected == {}
    assert (facts["fit"] + facts["select"] + facts["report"], facts["shots"]) == (18, 12)

    tiles: list[Refused] = []
    monkeypatch.setattr(
        stage, "write_sheet", lambda at, refused, most: (tiles.extend(refused), write_sheet(at, refused, most))
    )
    folder, facts, rejected = prepared(cli, tmp_path, *fast, "--set", "prepare.keep_burst=best")
    assert {name: row["code"] for name, row in rejected.items()} == dict.fromkeys(album, "burst")
    for name, original in album.items():
        assert f'"{original}"' in rejected[name]["reason"]
        assert "prepare.keep_burst=all" in rejected[name]["hint"]
    assert facts["rejected"] == {"burst": 6}
    assert facts["shots"] == 12
    used = [json.loads(line)["file"] for line in (folder / "photos.jsonl").read_text().splitlines()]
    split = stage.read_split(folder)
    assert (
        sorted(used)
        == sorted([*split.fit, *split.select, *split.report])
        == [f"{index:02d}.jpg" for index in range(12)]
    )

    shown = {tile.path.name for tile in tiles if tile.path}
    assert shown == {name for name, original in album.items() if original in split.fit}
    assert shown != set(album), "this split seals none of the three bursts: the test shows nothing"


def test_too_few_are_left_of_bursts_alone(
    tmp_path: Path, demo_files: list[Path], cli: Command, fast: list[str], weights: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(6):
        with Image.open(demo_files[index // 3]) as image:
            image.convert("RGB").save(tmp_path / f"photos/{index}.jpg", quality=95 - index)
    done = cli("prepare", "alice", "--photos", "photos", "--json", *fast, "--set", "prepare.keep_burst=best")
    assert done.returncode == 3
    assert "2 of 6 photos can be used" in json.loads(done.stdout)["error"]["message"]
