"""sheet.png shows every sample and why photos were rejected, and nothing of a sealed photo."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Command
from PIL import Image, ImageFilter

from trainer.prepare.sheet import MAX_REJECTED, Refused, write_sheet
from trainer.records import RGB

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"


def sheet_of(folder: Path) -> RGB:
    with Image.open(folder / "sheet.png") as image:
        return np.asarray(image.convert("RGB"))


def likeness(sheet: RGB, picture: RGB) -> float:
    """Best match of the middle of a picture, at the size of a small tile, anywhere on the sheet: -1 to 1."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = cv2.resize(picture[top : top + side, left : left + side], (64, 64), interpolation=cv2.INTER_AREA)
    return float(cv2.matchTemplate(sheet, square[:48], cv2.TM_CCOEFF_NORMED).max())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder with ten samples of one gray each."""
    (tmp_path / "images").mkdir()
    for index in range(10):
        Image.new("RGB", (128, 128), (20 * index + 20,) * 3).save(tmp_path / f"images/{index:04d}.png")
    return tmp_path


def test_samples_come_first_and_the_rejected_below_at_half_the_size(folder: Path) -> None:
    write_sheet(folder, [Refused("other-person", STRANGER), Refused("truncated", None)], 10**8)
    sheet = sheet_of(folder)
    assert sheet.shape == (2 * 128 + 64, 8 * 128, 3)
    assert sheet[64, 64].tolist() == [20] * 3
    assert sheet[128 + 64, 128 + 64].tolist() == [200] * 3
    with Image.open(STRANGER) as image:
        assert likeness(sheet, np.asarray(image.convert("RGB"))) > 0.9
    assert len(np.unique(sheet[256:, 64:128].reshape(-1, 3), axis=0)) > 2  # gray, a band and letters


def test_samples_of_other_shapes_are_whole_and_not_distorted(folder: Path) -> None:
    ball = np.full((160, 96, 3), 90, np.uint8)
    cv2.circle(ball, (48, 80), 40, (200, 200, 200), -1)
    Image.fromarray(ball).save(folder / "images/0001.png")
    Image.fromarray(ball.transpose(1, 0, 2)).save(folder / "images/0002.png")
    write_sheet(folder, [], 10**8)
    sheet = sheet_of(folder)
    assert sheet.shape == (2 * 128, 8 * 128, 3)
    for tile, outside in ((sheet[:128, 128:256], np.s_[:, :24]), (sheet[:128, 256:384], np.s_[:24])):
        assert (tile[outside] == 255).all()
        light = (tile > 150).all(2) & (tile < 230).all(2)
        assert [int(light.any(axis).sum()) for axis in (0, 1)] == pytest.approx([64, 64], abs=2)  # 128 of 160 px
    assert sheet[64, 64].tolist() == [20] * 3


def test_a_sheet_of_many_samples_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.prepare.sheet.MAX_SHEET_PX", 10 * 80**2)
    write_sheet(folder, [], 10**8)
    sheet = sheet_of(folder)
    assert sheet.shape == (2 * 80, 8 * 80, 3)
    assert sheet[40, 40].tolist() == [20] * 3
    assert sheet[80 + 40, 80 + 40].tolist() == [200] * 3


def test_every_code_is_printed_and_fits(folder: Path) -> None:
    tiles = []
    for code in ("blurred", "face-too-small", "archive-too-large"):
        write_sheet(folder, [Refused(code, None)], 10**8)
        tile = sheet_of(folder)[256:, :64]
        letters = (tile > 200).all(2)
        assert letters.any()
        assert not letters[:, [0, 63]].any()
        tiles.append(tile.tobytes())
    assert len(set(tiles)) == 3


def test_a_photo_that_went_since_and_many_rejected_ones_do_no_harm(folder: Path, tmp_path: Path) -> None:
    write_sheet(folder, [Refused("blurred", tmp_path / "gone.jpg")] * 500, 10**8)
    rows = -(-(MAX_REJECTED + 1) // 16)
    assert sheet_of(folder).shape[0] == 256 + 64 * rows
    write_sheet(folder, [], 10**8)
    assert sheet_of(folder).shape[0] == 256


def test_a_sealed_photo_or_its_burst_is_never_on_the_sheet(
    photos: Path, tmp_path: Path, cli: Command, fast: list[str], weights: Path
) -> None:
    shutil.copyfile(STRANGER, photos / "stranger.jpg")
    assert cli("prepare", "alice", "--photos", "photos", *fast).returncode == 0
    prepared = tmp_path / "runs/alice/latest/1_prepare"
    split = json.loads((prepared / "split.json").read_text())
    sealed = split["select"] + split["report"]
    for name in sealed:  # a blurred shot of each, taken in the same burst
        with Image.open(photos / name) as image:
            image.convert("RGB").filter(ImageFilter.GaussianBlur(7)).save(photos / f"{name}.blurred.png")
    assert cli("prepare", "alice", "--photos", "photos", *fast).returncode == 0
    prepared = tmp_path / "runs/alice/latest/1_prepare"
    split = json.loads((prepared / "split.json").read_text())
    assert set(split["select"] + split["report"]) == set(sealed)
    rows = [json.loads(line) for line in (prepared / "rejected.jsonl").read_text().splitlines()]
    assert sorted(row["code"] for row in rows) == ["blurred"] * len(sealed) + ["other-person"]
    sheet = sheet_of(prepared)
    for name in sealed:
        with Image.open(photos / name) as image:
            assert likeness(sheet, np.asarray(image.convert("RGB"))) < 0.9
    with Image.open(STRANGER) as image:
        assert likeness(sheet, np.asarray(image.convert("RGB"))) > 0.9
