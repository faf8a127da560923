"""One album with everything that a camera roll holds: every file ends where it should, with the right reason."""

import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Command
from PIL import ExifTags, Image, ImageFilter, ImageOps
from pillow_heif import register_heif_opener
from test_bad_photos import STRANGER, write_half, write_huge, write_nothing, write_text_file

from trainer.prepare.stage import read_split

# How a camera that was held otherwise stores an upright picture, by its EXIF orientation.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
SECOND = "2024:05:17 12:00:00"


def upright(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def write_good(folder: Path, demo: list[Path]) -> set[str]:
    """Photos of the person in every shape that is read; their names."""
    for orientation, stored in STORED.items():
        picture = upright(demo[orientation - 1])
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        turned = picture if stored is None else picture.transpose(stored)
        turned.save(folder / f"turned{orientation}.jpg", quality=95, exif=exif)
    register_heif_opener()
    upright(demo[8]).save(folder / "phone.heic", quality=90)
    upright(demo[9]).save(folder / "phone.avif", quality=90)
    upright(demo[10]).save(folder / "web.webp", quality=95)
    upright(demo[11]).convert("CMYK").save(folder / "printer.jpg", quality=95)
    gray = np.asarray(upright(demo[12]).convert("L"), np.uint16) * 257
    Image.fromarray(gray).save(folder / "scan16.png")
    colours = np.asarray(upright(demo[13]), np.uint16)[..., ::-1] * 257
    assert cv2.imwrite(str(folder / "scan48.png"), np.ascontiguousarray(colours))
    upright(demo[14]).convert("L").save(folder / "gray.tif")
    upright(demo[15]).save(folder / "old.bmp")
    cut_out = upright(demo[16])
    cut_out.putalpha(255)
    cut_out.save(folder / "alpha.png")
    return {path.name for path in folder.iterdir()}


def write_copies(folder: Path, demo: list[Path]) -> list[set[str]]:
    """Copies and a burst; the sets of names that have to share a role."""
    shutil.copyfile(folder / "turned1.jpg", folder / "turned1 (1).jpg")
    one = upright(demo[0])
    one.save(folder / "forwarded.jpg", quality=60)
    one.resize((one.width * 3 // 4, one.height * 3 // 4), Image.Resampling.LANCZOS).save(folder / "small.png")
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = SECOND
    for index, file in enumerate(demo[17:20]):
        upright(file).save(folder / f"burst{index}.jpg", quality=95, exif=exif)
    return [
        {"turned1.jpg", "turned1 (1).jpg", "forwarded.jpg", "small.png"},
        {"burst0.jpg", "burst1.jpg", "burst2.jpg"},
    ]


def write_bad(folder: Path, demo: list[Path]) -> dict[str, str]:
    """What cannot be used; codes by name."""
    stranger, good = upright(STRANGER), folder / "turned1.jpg"
    stranger.save(folder / "stranger.png")
    ImageOps.mirror(stranger).rotate(5).save(folder / "stranger2.png")
    both = Image.new("RGB", (2 * stranger.width, stranger.height))
    both.paste(stranger, (0, 0))
    both.paste(ImageOps.mirror(stranger), (stranger.width, 0))
    both.save(folder / "strangers.png")
    stranger.resize((66, 66)).save(folder / "far.png")
    upright(demo[0]).filter(ImageFilter.GaussianBlur(5)).save(folder / "blurred.png")
    Image.new("RGB", (300, 300), "teal").save(folder / "wall.png")
    write_text_file(folder / "notes.jpg", good)
    write_nothing(folder / "empty.jpg", good)
    write_half(folder / "half.jpg", good)
    write_huge(folder / "huge.png", good)
    Image.new("RGB", (20, 20)).save(folder / "dot.png")
    with zipfile.ZipFile(folder / "roll.zip", "w") as archive:
        archive.writestr("../evil.jpg", good.read_bytes())
        archive.writestr("inner.zip", b"PK")
    (folder / "torn.zip").write_bytes(b"PK\x03\x04 and no more")
    return {
        "stranger.png": "other-person", "stranger2.png": "other-person", "strangers.png": "other-person",
        "far.png": "face-too-small", "blurred.png": "blurred", "wall.png": "no-face", "notes.jpg": "not-a-picture",
        "empty.jpg": "not-a-picture", "half.jpg": "truncated", "huge.png": "too-large", "dot.png": "too-small",
        "roll.zip/../evil.jpg": "unsafe-path", "roll.zip/inner.zip": "nested-archive", "torn.zip": "not-an-archive",
    }  # fmt: skip


def write_poor(folder: Path, demo: list[Path]) -> dict[str, str]:
    """What is used with a warning; codes by name."""
    day = np.asarray(upright(demo[20]), np.float32)
    night = np.maximum(day - np.quantile(day, 0.65), 0)  # what lies in the shade is black
    Image.fromarray(night.astype(np.uint8)).save(folder / "night.png")
    upright(demo[21]).save(folder / "forwarded-often.jpg", quality=20)
    return {"night.png": "too-dark", "forwarded-often.jpg": "compressed"}


def write_group(folder: Path, demo: list[Path]) -> None:
    """The person beside a stranger of the same size."""
    person, stranger = upright(demo[22]), upright(STRANGER)
    stranger = stranger.resize((person.width, person.height))
    both = Image.new("RGB", (2 * person.width, person.height))
    both.paste(stranger, (0, 0))
    both.paste(person, (person.width, 0))
    both.save(folder / "party.png")


@pytest.fixture
def album(tmp_path: Path, demo_files: list[Path]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_every_file_of_a_camera_roll_ends_where_it_should(
    album: Path, tmp_path: Path, demo_files: list[Path], cli: Command, fast: list[str], weights: Path
) -> None:
    good = write_good(album, demo_files)
    together = write_copies(album, demo_files)
    poor = write_poor(album, demo_files)
    write_group(album, demo_files)
    bad = write_bad(album, demo_files)
    done = cli("prepare", "alice", "--photos", "photos", "--json", *fast)
    assert done.returncode == 0, done.stderr
    prepared = tmp_path / json.loads(done.stdout)["result"]["run"] / "1_prepare"

    refused = [json.loads(line) for line in (prepared / "rejected.jsonl").read_text().splitlines()]
    assert {row["file"]: row["code"] for row in refused} == bad
    assert all(row["reason"] and row["hint"] for row in refused)
    assert not list(tmp_path.rglob("evil.jpg"))

    used = {row["file"]: row for row in map(json.loads, (prepared / "photos.jsonl").read_text().splitlines())}
    assert set(used) == {*good, *set().union(*together), *poor, "party.png"}
    for name, code in poor.items():
        assert code in used[name]["warnings"]
    for name in good | {"party.png"}:
        assert not {"too-dark", "too-bright", "compressed", "turned-away"} & set(used[name]["warnings"]), name
    left, _, side = used["party.png"]["frame"]
    middle = upright(album / "party.png").width / 2
    assert left + side / 2 > middle

    split = read_split(prepared)
    assert {*split.fit, *split.select, *split.report} == set(used)
    for names in together:
        assert any(names <= set(group) for group in split.groups), names
        assert len({split.role_of(name) for name in names}) == 1
    rows = [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == len(split.fit)


def test_all_eight_orientations_show_the_same_face(
    album: Path, tmp_path: Path, demo_files: list[Path], cli: Command, fast: list[str], weights: Path
) -> None:
    write_good(album, demo_files[:1] * 8 + demo_files[8:])
    done = cli("prepare", "alice", "--photos", "photos", "--json", *fast)
    assert done.returncode == 0, done.stderr
    prepared = tmp_path / json.loads(done.stdout)["result"]["run"] / "1_prepare"
    used = {row["file"]: row for row in map(json.loads, (prepared / "photos.jsonl").read_text().splitlines())}
    first = used["turned1.jpg"]
    for orientation in STORED:
        one = used[f"turned{orientation}.jpg"]
        assert np.abs(np.subtract(one["face"], first["face"])).max() < 0.03 * first["face_px"]
    group = next(group for group in read_split(prepared).groups if "turned1.jpg" in group)
    assert {f"turned{orientation}.jpg" for orientation in STORED} <= set(group)
