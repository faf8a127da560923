"""Folders as users have them: what cannot be used is named with its reason, the rest is used, nothing is touched."""

import json
import os
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image, ImageFilter

Prepare = Callable[[], subprocess.CompletedProcess[str]]
STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"


@pytest.fixture
def prepare(cli: Command, fast: list[str], weights: Path) -> Prepare:
    """`trainer prepare alice` of tmp_path/photos."""
    return lambda: cli("prepare", "alice", "--photos", "photos", "--json", *fast)


def rejected(home: Path) -> dict[str, str]:
    """The code of each rejected file."""
    lines = (home / "runs/alice/latest/1_prepare/rejected.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row["reason"] and row["hint"] for row in rows)
    return {row["file"]: row["code"] for row in rows}


def refusal(home: Path, done: subprocess.CompletedProcess[str]) -> str:
    """The message of a run that was refused for its photos and left no stage behind, whole or half."""
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "photos"
    assert error["hint"]
    left = [path for path in home.rglob("*") if path.name.endswith(".part") or path.name == "1_prepare"]
    assert left == []
    message: str = error["message"]
    return message


def write_text_file(path: Path, good: Path) -> None:
    path.write_text("these are not the pixels you are looking for")


def write_half(path: Path, good: Path) -> None:
    data = good.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def write_nothing(path: Path, good: Path) -> None:
    path.write_bytes(b"")


def write_dot(path: Path, good: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


def write_huge(path: Path, good: Path) -> None:
    """30,000 x 30,000 pixels in 110 KB: one bit each, all black."""
    packed = zlib.compressobj(1)
    row = b"\0" + bytes(30_000 // 8)
    pixels = b"".join(packed.compress(row * 1000) for _ in range(30)) + packed.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_stranger(path: Path, good: Path) -> None:
    shutil.copyfile(STRANGER, path)


def write_tiny_face(path: Path, good: Path) -> None:
    with Image.open(STRANGER) as image:
        image.resize((66, 66)).save(path)


def write_blurred(path: Path, good: Path) -> None:
    with Image.open(good) as image:  # its face is cut by the border
        image.convert("RGB").filter(ImageFilter.GaussianBlur(5)).save(path)


@pytest.mark.parametrize(
    ("write", "name", "code"),
    [
        (write_text_file, "notes.jpg", "not-a-picture"),
        (write_nothing, "empty.jpg", "not-a-picture"),
        (write_half, "half.jpg", "truncated"),
        (write_dot, "dot.png", "too-small"),
        (write_huge, "huge.png", "too-large"),
        (write_stranger, "stranger.jpg", "other-person"),
        (write_tiny_face, "far.png", "face-too-small"),
        (write_blurred, "blurred.png", "blurred"),
        (write_text_file, os.fsdecode(b"caf\xe9.jpg"), "not-a-picture"),
    ],
)
def test_a_bad_file_is_named_and_the_run_goes_on(
    write: Callable[[Path, Path], None], name: str, code: str, photos: Path, tmp_path: Path, prepare: Prepare
) -> None:
    write(photos / name, photos / "holiday00.jpg")
    done = prepare()
    assert done.returncode == 0, done.stderr
    assert rejected(tmp_path) == {name: code}
    facts = json.loads(done.stdout)["result"]["stages"]["1_prepare"]
    assert (facts["photos"], facts["rejected"]) == (13, {code: 1})
    assert facts["fit"] + facts["select"] + facts["report"] == 12


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    from trainer.pictures import UnusablePicture, open_picture

    write_huge(tmp_path / "huge.png", tmp_path)
    started = time.process_time()
    with pytest.raises(UnusablePicture) as caught:
        open_picture(tmp_path / "huge.png", 120_000_000)
    assert caught.value.code == "too-large"
    assert time.process_time() - started < 0.5


def test_two_photos_are_too_few(photos: Path, tmp_path: Path, prepare: Prepare) -> None:
    for path in sorted(photos.iterdir())[2:]:
        path.unlink()
    message = refusal(tmp_path, prepare())
    assert "2 of 2 photos can be used, at least 3 are needed" in message


def test_noise_has_no_face(tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(tmp_path / f"photos/noise{index}.jpg")
    message = refusal(tmp_path, prepare())
    assert "0 of 12" in message
    assert message.count("(no-face)") == 12
    assert "noise7.jpg" in message


def test_two_people_in_every_photo_are_several_faces(photos: Path, tmp_path: Path, prepare: Prepare) -> None:
    for path in sorted(photos.iterdir()):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        Image.fromarray(np.hstack([picture, picture])).save(path)
    message = refusal(tmp_path, prepare())
    assert message.count("(several-faces)") == 12
    assert "holiday07.jpg: 2 faces" in message


def test_one_shot_twelve_times_cannot_be_sealed(photos: Path, tmp_path: Path, prepare: Prepare) -> None:
    for path in photos.iterdir():
        if path.name != "holiday00.jpg":
            shutil.copyfile(photos / "holiday00.jpg", path)
    assert "only 1 different shots" in refusal(tmp_path, prepare())


def test_after_a_refusal_more_photos_are_enough(photos: Path, tmp_path: Path, prepare: Prepare) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in sorted(photos.iterdir())[2:]:
        path.rename(aside / path.name)
    refusal(tmp_path, prepare())
    for path in aside.iterdir():
        path.rename(photos / path.name)
    assert prepare().returncode == 0
    assert rejected(tmp_path) == {}


def test_odd_names_and_other_files_do_no_harm(photos: Path, tmp_path: Path, prepare: Prepare) -> None:
    names = ["Ünder wäter.JPG", "a 'quoted' \"name\".jpeg", "line\nbreak.jpg", "[bold]x[red].jpg", "%s {0}.JPEG"]
    for path, name in zip(sorted(photos.iterdir()), names, strict=False):
        path.rename(photos / name)
    (photos / ".hidden.jpg").write_text("a thumbnail's leftovers")
    (photos / "notes.txt").write_text("not meant as a picture")
    (photos / "album.jpg").mkdir()
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    done = prepare()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["stages"]["1_prepare"]["photos"] == 12
    split = json.loads((tmp_path / "runs/alice/latest/1_prepare/split.json").read_text(encoding="utf-8"))
    assert set(names) <= {*split["fit"], *split["select"], *split["report"]}
