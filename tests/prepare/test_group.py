"""Group photos: the person is found among all faces and framed without the others, or the photo is rejected."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from trainer.faces.base import get_detector, get_embedder
from trainer.prepare.group import Found, find_person
from trainer.prepare.looks import Look, Sight, look
from trainer.prepare.quality import Limits
from trainer.records import PhotoFile
from trainer.sections import PrepareSection

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"
SECTION = PrepareSection()
LIMITS = Limits(**{name: getattr(SECTION, name) for name in Limits.__slots__})


@pytest.fixture(scope="module")
def sight(weights: Path) -> Sight:
    return Sight(get_detector(weights), get_embedder("dlib", weights), 10**8)


@pytest.fixture(scope="module")
def alone(demo_files: list[Path], sight: Sight) -> list[tuple[PhotoFile, Look]]:
    """Six photos of the demo person alone."""
    return [(PhotoFile(path.name, path, path.name), look(path, sight)) for path in demo_files[:6]]


def beside(path: Path, *faces: Path | Image.Image, gap: int = 120) -> Path:
    """A photo of these people next to each other, 256 px each, in front of gray."""
    side = 256
    picture = Image.new("RGB", (len(faces) * (side + gap) + gap, side + 2 * gap), "gray")
    for index, face in enumerate(faces):
        image = Image.open(face) if isinstance(face, Path) else face
        picture.paste(image.convert("RGB").resize((side, side)), (gap + index * (side + gap), gap))
    picture.save(path)
    return path


def found(path: Path, alone: list[tuple[PhotoFile, Look]], sight: Sight, limits: Limits = LIMITS, **more: Any) -> Found:
    """What is made of this photo beside those of the person alone."""
    return find_person([*alone, (PhotoFile("group", path, "group"), look(path, sight))], limits, 0.3, **more)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_person_is_found_among_others_and_framed_without_them(
    place: int, tmp_path: Path, demo_files: list[Path], alone: list[tuple[PhotoFile, Look]], sight: Sight
) -> None:
    with Image.open(STRANGER) as image:
        people: list[Path | Image.Image] = [STRANGER, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).copy()]
    people.insert(place, demo_files[8])
    result = found(beside(tmp_path / "group.png", *people), alone, sight)
    assert result.rejected == []
    (group,) = (photo for photo in result.photos if photo.name == "group")
    left, top, side = group.frame
    assert 120 + place * 376 <= (group.face.box[0] + group.face.box[2]) / 2 <= 376 + place * 376
    with Image.open(tmp_path / "group.png") as image:
        image.crop((round(left), round(top), round(left + side), round(top + side))).save(tmp_path / "crop.png")
    assert len(look(tmp_path / "crop.png", sight).faces) == 1


def test_a_person_behind_a_wider_stranger_is_still_the_person(
    tmp_path: Path, demo_files: list[Path], alone: list[tuple[PhotoFile, Look]], sight: Sight
) -> None:
    picture = Image.new("RGB", (1200, 700), "gray")
    with Image.open(STRANGER) as large, Image.open(demo_files[8]) as small:
        picture.paste(large.resize((600, 600)), (20, 50))
        picture.paste(small.convert("RGB").resize((200, 200)), (850, 250))
    picture.save(tmp_path / "behind.png")
    result = found(tmp_path / "behind.png", alone, sight)
    assert result.rejected == []
    assert result.photos[-1].face.box[0] > 800


def test_a_group_without_the_person_is_of_other_people(
    tmp_path: Path, alone: list[tuple[PhotoFile, Look]], sight: Sight
) -> None:
    (rejection,) = found(beside(tmp_path / "group.png", STRANGER, STRANGER), alone, sight).rejected
    assert (rejection.file, rejection.code) == ("group", "other-person")


def test_two_who_look_like_the_person_are_not_guessed_between(
    tmp_path: Path, demo_files: list[Path], alone: list[tuple[PhotoFile, Look]], sight: Sight
) -> None:
    photo = beside(tmp_path / "mirror.png", demo_files[8], demo_files[9])
    (rejection,) = found(photo, alone, sight).rejected
    assert rejection.code == "look-alikes"
    for choice, warnings in (("warn", ("look-alikes",)), ("keep", ())):
        limits = Limits(**{name: getattr(SECTION, name) for name in Limits.__slots__} | {"on_look_alikes": choice})
        result = found(photo, alone, sight, limits)
        assert result.rejected == []
        assert tuple(code for code in result.photos[-1].warnings if code == "look-alikes") == warnings


def test_a_reference_is_enough_where_no_photo_shows_one_face(
    tmp_path: Path, demo_files: list[Path], alone: list[tuple[PhotoFile, Look]], sight: Sight
) -> None:
    groups = []
    for index, file in enumerate(demo_files[6:10]):
        path = beside(tmp_path / f"{index}.png", STRANGER, file)
        groups.append((PhotoFile(f"{index}", path, f"{index}"), look(path, sight)))
    unknown = find_person(groups, LIMITS, 0.3)
    assert {rejection.code for rejection in unknown.rejected} == {"several-faces"}
    assert "--reference" in unknown.rejected[0].hint
    anchor = alone[0][1].faces[0].embedding
    known = find_person(groups, LIMITS, 0.3, anchor)
    assert known.rejected == []
    assert all(photo.face.box[0] > 376 for photo in known.photos)
    stranger = find_person(groups, LIMITS, 0.3, look(STRANGER, sight).faces[0].embedding)
    assert all(photo.face.box[0] < 376 for photo in stranger.photos)
    assert len(stranger.photos) == 4


def test_the_sample_of_a_group_photo_and_its_score_are_the_person_s(
    photos: Path, tmp_path: Path, demo_files: list[Path], cli: Command, fast: list[str], weights: Path
) -> None:
    for index, file in enumerate(demo_files[:10]):  # in ten of twelve photos a larger stranger stands there too
        beside(photos / f"holiday{index:02d}.jpg", STRANGER, file)
    done = cli("prepare", "alice", "--photos", "photos", "--json", "--reference", demo_files[20], *fast)
    assert done.returncode == 0, done.stderr
    prepared = tmp_path / "runs/alice/latest/1_prepare"
    assert (prepared / "rejected.jsonl").read_text() == ""
    gate, detector = get_embedder("dlib", weights), get_detector(weights)
    vectors = []
    for path in [*sorted((prepared / "images").glob("*.png")), demo_files[20]]:
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        (face,) = detector.detect(picture)
        vectors.append(gate.embed(picture, face))
    assert len(vectors) > 6
    assert min(float(vector @ vectors[-1]) for vector in vectors[:-1]) > 0.5


def refusal(done: Any) -> str:
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert "--reference" in error["hint"]
    message: str = error["message"]
    return message


def test_a_reference_that_says_nothing_is_refused_by_name(
    photos: Path, tmp_path: Path, demo_files: list[Path], cli: Command, fast: list[str], weights: Path
) -> None:
    def prepare(reference: Path) -> Any:
        return cli("prepare", "alice", "--photos", "photos", "--json", "--reference", reference, *fast)

    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)).save(tmp_path / "noise.png")
    beside(tmp_path / "two.png", STRANGER, demo_files[8])
    assert "text.jpg: the reference photo cannot be used" in refusal(prepare(tmp_path / "text.jpg"))
    assert "noise.png: the reference photo must show one face; none found" in refusal(prepare(tmp_path / "noise.png"))
    assert "two.png: the reference photo must show one face; 2 found" in refusal(prepare(tmp_path / "two.png"))
    missing = prepare(tmp_path / "gone.png")
    assert missing.returncode == 2
    assert "gone.png: cannot be read" in missing.stderr


def test_the_reference_decides_whose_album_it_is_and_is_in_the_lock_alone(
    photos: Path, tmp_path: Path, demo_files: list[Path], cli: Command, fast: list[str], weights: Path
) -> None:
    shutil.copyfile(demo_files[20], tmp_path / "face.jpg")
    arguments = ["prepare", "alice", "--photos", "photos", "--json", "--reference", "face.jpg", *fast]
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/alice/latest"
    lock = json.loads((run / "lock.json").read_text())
    assert len(lock["reference_sha256"]) == 64
    assert lock["reference_sha256"] not in lock["photos"]
    kept = [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert (tmp_path / "face.jpg").read_bytes() not in kept
    assert json.loads(cli(*arguments).stdout)["result"]["reused"] == ["1_prepare"]
    shutil.copyfile(STRANGER, tmp_path / "face.jpg")
    other = cli(*arguments)
    assert other.returncode == 3
    assert other.stdout.count("(other-person)") == 12
