"""Several framings of one photo: those it has room for, none enlarged beyond the limit, nobody else in them."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.faces.align import ARCFACE_112, portrait_square
from trainer.pictures import UnusablePicture
from trainer.prepare.framing import (
    MOST_SHIFT,
    NARROWEST,
    WIDER,
    Framings,
    face_bounds,
    framings_of,
    outside_share,
    portrait_frame,
    wider_frame,
)
from trainer.records import Floats

ALL = ("face", "head-and-shoulders", "half-body")


def face_at(x: float, y: float, eyes: float = 35.0) -> Floats:
    """The ArcFace template with its centre at (x, y) and this distance of the eyes."""
    return ((ARCFACE_112 - ARCFACE_112.mean(0)) * (eyes / 35.24) + np.array([x, y])).astype(np.float32)


def framed(asked: Framings, landmarks: Floats, width: int, height: int) -> dict[str, tuple[float, float, float]]:
    found = framings_of(asked, portrait_frame(landmarks, [], width, height), landmarks, [], width, height)
    assert all(crop.width == crop.height and crop.size == (asked.size_px, asked.size_px) for crop in found.values())
    return {name: (crop.left, crop.top, crop.width) for name, crop in found.items()}


def test_the_default_is_the_one_framing_and_no_list_of_them() -> None:
    assert framed(Framings(), face_at(500, 300), 1000, 1000) == {}


def test_a_large_photo_has_all_three_around_the_same_face() -> None:
    landmarks = face_at(500, 300)
    found = framed(Framings(ALL), landmarks, 1000, 1000)
    assert tuple(found) == ALL
    base = portrait_square(landmarks)[2]
    assert [square[2] / base for square in found.values()] == pytest.approx([1, 2.2, 3.8])
    for name, (factor, (x, y)) in WIDER.items():
        left, top, side = found[name]
        assert side == pytest.approx(factor * base)
        assert ((landmarks.mean(0) - (left, top)) / side).tolist() == pytest.approx([x, y], abs=1e-3)


def test_a_portrait_has_the_head_alone_and_one_from_further_away_the_shoulders_too() -> None:
    assert tuple(framed(Framings(ALL), face_at(80, 90), 160, 160)) == ("face",)
    assert tuple(framed(Framings(ALL), face_at(150, 140), 300, 330)) == ("face", "head-and-shoulders")


@given(
    st.floats(0, 1200), st.floats(0, 1200), st.integers(64, 1200), st.integers(64, 1200), st.floats(8, 90),
    st.sampled_from(sorted(WIDER)), st.booleans(),
)  # fmt: skip
def test_a_wider_square_lies_in_the_photo_holds_the_face_and_nobody_else(
    x: float, y: float, width: int, height: int, eyes: float, name: str, crowded: bool
) -> None:
    landmarks = face_at(x % width, y % height, eyes)
    others = [face_at(x % width + 4 * eyes, y % height, eyes)] if crowded else []
    square = wider_frame(name, landmarks, others, width, height)
    if square is None:
        return
    left, top, side = square
    assert outside_share(square, width, height) < 1e-6
    wanted = WIDER[name][0] * portrait_square(landmarks)[2]
    assert NARROWEST * wanted <= side * 1.0001 <= wanted * 1.0002
    shift = (landmarks.mean(0) - (left, top)) / side - WIDER[name][1]
    assert np.hypot(*shift) <= MOST_SHIFT + 1e-3
    for other in others:
        box = face_bounds(other)
        assert box[0] >= left + side - 0.01 or box[2] <= left + 0.01 or box[1] >= top + side or box[3] <= top


def test_somebody_beside_the_person_is_in_no_framing() -> None:
    landmarks, other = face_at(500, 300), face_at(660, 300)
    assert wider_frame("half-body", landmarks, [other], 1000, 1000) is None
    assert wider_frame("half-body", landmarks, [], 1000, 1000) is not None


def test_what_would_be_enlarged_too_much_is_left_out_and_nothing_left_is_refused() -> None:
    landmarks = face_at(500, 300)
    side = portrait_square(landmarks)[2]
    limit = 512 / side
    assert tuple(framed(Framings(ALL, 512, limit * 1.01), landmarks, 1000, 1000)) == ALL
    assert tuple(framed(Framings(ALL, 512, limit * 0.99), landmarks, 1000, 1000)) == ALL[1:]
    with pytest.raises(UnusablePicture) as caught:
        framed(Framings(("face",), 512, limit * 0.5), landmarks, 1000, 1000)
    assert caught.value.code == "no-framing"
    assert f"{limit:.1f} times" in str(caught.value)
    with pytest.raises(UnusablePicture, match="half-body does not fit"):
        framed(Framings(("half-body",)), face_at(80, 90), 160, 160)


def test_a_run_learns_from_every_framing_that_a_photo_has(
    photos: Path, tmp_path: Path, cli: Command, fast: list[str], weights: Path
) -> None:
    files = sorted(photos.iterdir())
    for file in files[8:]:
        file.unlink()
    wide = [on_canvas(file) for file in files[:5]]  # more than are sealed
    arguments = ["prepare", "alice", "--photos", "photos", "--json", *fast]
    asked = ["--set", f"prepare.framings=[{', '.join(ALL)}]", "--set", "prepare.min_face_px=24"]
    done = cli(*arguments, *asked)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    prepared = tmp_path / result["run"] / "1_prepare"
    rows = [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]
    split = json.loads((prepared / "split.json").read_text())
    fitted_wide = [name for name in split["fit"] if name in wide]
    framings = [row["framing"] for row in rows]
    assert framings.count("face") == len(split["fit"])
    assert fitted_wide
    assert framings.count("half-body") == framings.count("head-and-shoulders") == len(fitted_wide)
    widths = {name: [r["face_box"][2] - r["face_box"][0] for r in rows if r["framing"] == name] for name in ALL}
    assert min(widths["face"]) > max(widths["head-and-shoulders"]) > max(widths["half-body"]) > 0.08
    assert all("wide shot" in row["text"] for row in rows if row["framing"] == "half-body")
    assert len(list((prepared / "images").glob("*.png"))) == len(rows)
    assert max(result["stages"]["1_prepare"]["shows"].values()) <= len(split["fit"])

    done = cli(*arguments, "--set", "prepare.max_upscale=1", "--set", "base.size_px=1024")
    assert done.returncode == 3
    assert "0 of 8 photos can be used" in done.stderr
    assert done.stderr.count("(no-framing)") == 8


def on_canvas(file: Path) -> str:
    """The photo amid a large wall; its name."""
    with Image.open(file) as image:
        picture = image.convert("RGB")
    wall = Image.new("RGB", (5 * picture.width, 5 * picture.height), picture.getpixel((2, 2)))
    wall.paste(picture, (2 * picture.width, picture.height))
    wall.save(file, quality=95)
    return file.name
