"""Samples of other shapes: as many pixels as the square, in the base's steps, inside the photo, nothing distorted."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.faces.align import ARCFACE_112, cropped
from trainer.jobs import decides
from trainer.pictures import UnusablePicture
from trainer.prepare.buckets import nearest, shapes_of, touches, widened
from trainer.prepare.framing import Framings, face_bounds, framings_of, outside_share, portrait_frame, wider_frame
from trainer.prepare.scenes import framed, part_of
from trainer.records import RGB, Box, Crop, Floats, Square
from trainer.sections import PrepareSection

SHAPES = shapes_of(128, 16, 2.0)
TALL, WIDE = (96, 160), (160, 96)
steps = st.sampled_from([16, 32, 64])


def face_at(x: float, y: float, eyes: float = 35.0) -> Floats:
    """The ArcFace template with its centre at (x, y) and this distance of the eyes."""
    return ((ARCFACE_112 - ARCFACE_112.mean(0)) * (eyes / 35.24) + np.array([x, y])).astype(np.float32)


def box_of(crop: Crop) -> Box:
    return crop.left, crop.top, crop.left + crop.width, crop.top + crop.height


def holds(outer: Box, inner: Box, slack: float = 0.01) -> bool:
    before = outer[0] <= inner[0] + slack and outer[1] <= inner[1] + slack
    return before and inner[2] <= outer[2] + slack and inner[3] <= outer[3] + slack


@given(st.integers(4, 128).map(lambda count: 16 * count), steps, st.floats(1, 4))
def test_buckets_are_in_steps_of_no_more_pixels_than_the_square_and_not_many_less(
    size_px: int, step_px: int, max_aspect: float
) -> None:
    first, *others = shapes_of(size_px, step_px, max_aspect)
    assert first == (size_px, size_px)
    step = max(step_px, 1.5 * size_px / 16)  # about a sixteenth
    for width, height in others:
        assert width % step_px == height % step_px == 0
        assert size_px**2 - step * size_px <= width * height <= size_px**2
        assert 1 < max(width, height) / min(width, height) <= max_aspect
        assert (height, width) in others
    assert len(set(others)) == len(others)
    assert [max(shape) / min(shape) for shape in others] == sorted(max(shape) / min(shape) for shape in others)


def test_the_published_ones_of_sdxl_are_among_them() -> None:
    shapes = shapes_of(1024, 32, 2.0)
    assert {(1152, 896), (1216, 832), (1344, 768), (896, 1152), (832, 1216), (768, 1344)} < set(shapes)
    assert len(shapes) == 9
    assert shapes_of(1024, 32, 1.0) == ((1024, 1024),)
    assert shapes_of(128, 32, 1.5) == ((128, 128),)  # 96 x 160 would be the next


places = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(8, 90))


@given(
    st.integers(64, 1200), st.integers(64, 1200), places, st.lists(places, max_size=2), st.floats(1, 4), st.booleans()
)
def test_a_crop_holds_its_square_lies_in_the_photo_and_shows_nobody_else(
    width: int, height: int, place: tuple[float, float, float], others: list[tuple[float, float, float]],
    limit: float, wider: bool,
) -> None:  # fmt: skip
    landmarks, *rest = (face_at(x * width, y * height, eyes) for x, y, eyes in [place, *others])
    names = ("head-and-shoulders",) if wider else ("face",)
    try:
        frame = portrait_frame(landmarks, rest, width, height)
        found = framings_of(Framings(names, 128, limit, SHAPES), frame, landmarks, rest, width, height)
    except UnusablePicture:
        return
    square = wider_frame(names[0], landmarks, rest, width, height) if wider else frame
    assert square is not None
    (crop,) = found.values()
    assert crop.size in SHAPES
    assert crop.size[0] / crop.width == pytest.approx(crop.size[1] / crop.height)
    assert crop.size[0] / crop.width <= limit * 1.0001
    assert holds(box_of(crop), bounds(square))
    if crop.width == crop.height:
        assert (crop.left, crop.top, crop.width) == square
        return
    assert holds((0, 0, width, height), box_of(crop))
    assert not any(touches(box_of(crop), face_bounds(other)) for other in rest)
    least = max(nearest(SHAPES, width, height)) / min(nearest(SHAPES, width, height))
    assert max(crop.size) / min(crop.size) <= least
    assert (crop.size[1] > crop.size[0]) == (height > width)
    if outside_share(square, width, height) <= 1e-6:
        seen = face_bounds(landmarks)
        assert holds(box_of(crop), (max(seen[0], 0), max(seen[1], 0), min(seen[2], width), min(seen[3], height)), 0.1)


def bounds(square: Square) -> Box:
    left, top, side = square
    return left, top, left + side, top + side


@pytest.mark.parametrize(
    ("size", "apart", "wanted"),
    [
        ((600, 1000), [], Crop(200, 100, 240, 400, TALL)),  # on below
        ((1000, 600), [], Crop(120, 100, 400, 240, WIDE)),  # on both sides
        ((1000, 1000), [], Crop(200, 100, 240, 240, (128, 128))),  # of the photo's own shape
        ((240, 400), [], Crop(0, 0, 240, 400, TALL)),  # all of the photo
        ((600, 1000), [(300, 370, 400, 500)], Crop(200, 61.43, 240, 308.57, (112, 144))),  # somebody below
        ((600, 1000), [(300, 345, 400, 500), (200, 40, 300, 98)], Crop(200, 100, 240, 240, (128, 128))),  # above too
        ((1000, 600), [(450, 100, 500, 200)], Crop(50, 100, 400, 240, WIDE)),  # shifted away from somebody beside
    ],
)  # fmt: skip
def test_the_square_goes_on_into_the_photo(size: tuple[int, int], apart: list[Box], wanted: Crop) -> None:
    square = (0.0, 0.0, 240.0) if size == (240, 400) else (200.0, 100.0, 240.0)
    found = widened(square, SHAPES, apart, *size)
    assert found.size == wanted.size
    assert box_of(found) == pytest.approx(box_of(wanted), abs=0.01)


def test_what_is_enlarged_too_much_as_a_square_may_not_be_as_a_bucket() -> None:
    landmarks = face_at(300, 300)
    frame = portrait_frame(landmarks, [], 600, 1000)
    limit = 128 / frame[2] * 0.8
    with pytest.raises(UnusablePicture, match="enlarged"):
        framings_of(Framings(("face",), 128, limit), frame, landmarks, [], 600, 1000)
    (crop,) = framings_of(Framings(("face",), 128, limit, SHAPES), frame, landmarks, [], 600, 1000).values()
    assert crop.size == TALL


def test_a_crop_is_not_distorted() -> None:
    picture = np.zeros((400, 240, 3), np.uint8)
    picture[100:200, 60:160] = 255  # a square
    sample = cropped(picture, Crop(0, 0, 240, 400, TALL))
    assert sample.shape == (160, 96, 3)
    rows, columns = (sample[..., 0] > 127).any(1), (sample[..., 0] > 127).any(0)
    assert (rows.sum(), columns.sum()) == (40, 40)


@given(st.integers(64, 3000), st.integers(64, 3000))
def test_a_scene_is_cropped_least_or_all_of_it_kept(width: int, height: int) -> None:
    size = nearest(SHAPES, width, height)
    centre, whole = (part_of(width, height, framing, size) for framing in ("centre", "whole"))
    kept = [min(width / height * h / w, height / width * w / h) for w, h in SHAPES]
    assert centre.width * centre.height / (width * height) == pytest.approx(max(kept), rel=1e-6)
    assert holds((0, 0, width, height), box_of(centre), 1e-6 * width)
    assert holds(box_of(whole), (0, 0, width, height), 1e-6 * width)
    for part in (centre, whole):
        assert part.width / part.height == pytest.approx(size[0] / size[1])
        assert part.left + part.width / 2 == pytest.approx(width / 2)


def test_a_whole_scene_in_a_bucket_lies_on_white() -> None:
    sample = framed(np.zeros((100, 300, 3), np.uint8), "whole", WIDE)
    assert sample.shape == (96, 160, 3)
    dark = (sample[:, 80, 0] < 128).sum()
    assert dark == pytest.approx(160 / 3, abs=1)
    assert (sample[:20] == 255).all()


def test_a_key_that_is_off_leaves_finished_stages_as_they_are() -> None:
    off, on = decides(PrepareSection(), set()), decides(PrepareSection(max_aspect=2), set())
    assert {key for key in on if key not in off} == {"max_aspect"}


def texture(seed: int, width: int, height: int) -> RGB:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def on_wall(file: Path, upright: bool, seed: int) -> None:
    """The photo before a painted wall of 3:5 or 5:3, with room below or beside."""
    with Image.open(file) as image:
        picture = image.convert("RGB")
    side = max(picture.size)
    size = (6 * side // 5, 2 * side) if upright else (2 * side, 6 * side // 5)
    wall = Image.fromarray(texture(seed, *size))  # plain ones would be near-duplicates
    wall.paste(picture, (side // 10 if upright else side // 2, side // 10))
    wall.save(file, quality=95)


def test_wide_and_tall_photos_become_samples_of_their_shape_and_are_fitted(
    photos: Path, tmp_path: Path, cli: Command, fast: list[str], weights: Path
) -> None:
    files = sorted(photos.iterdir())
    for index, file in enumerate(files):
        if index % 3:
            on_wall(file, index % 3 == 1, index)
    asked = ["--set", "prepare.max_aspect=2", "--set", "fit.mask=person"]
    done = cli("fit", "alice", "--photos", "photos", "--json", *fast, *asked)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    prepared = tmp_path / result["run"] / "1_prepare"
    rows = [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]
    sizes = [(row["width"], row["height"]) for row in rows]
    assert {TALL, WIDE, (128, 128)} == set(sizes)
    told = {f"{w}x{h}": sizes.count((w, h)) for w, h in set(sizes)}
    assert result["stages"]["1_prepare"]["sizes"] == told
    for row, size in zip(rows, sizes, strict=True):
        for name in (row["file_name"], row["mask_file_name"]):
            with Image.open(prepared / name) as image:
                assert image.size == size
        left, top, right, bottom = row["face_box"]
        face = (right - left) * size[0], (bottom - top) * size[1]
        assert 0.6 < face[0] / face[1] < 1.1  # a face, whatever the sample's shape
        assert 0.4 < face[0] / math.sqrt(size[0] * size[1]) < 0.9
    loaded = load_dataset("imagefolder", data_dir=str(prepared), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["image"].size for row in loaded] == [(row["width"], row["height"]) for row in loaded]
    lines = [json.loads(line) for line in (prepared / "photos.jsonl").read_text().splitlines()]
    assert {len(line["framings"]["face"]) for line in lines} == {3, 4}
    assert all(len(line["frame"]) == 3 for line in lines)


def test_a_style_is_learned_in_its_pictures_own_shapes_and_no_small_one_is_blown_up(
    tmp_path: Path, cli: Command, fast: list[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(15):
        size = [(200, 120), (120, 200), (150, 150)][index % 3]
        Image.fromarray(texture(index, *size)).save(tmp_path / f"photos/{index:02d}.png")
    Image.fromarray(texture(99, 70, 70)).save(tmp_path / "photos/small.png")
    style = ["prepare.subject_kind=style", "prepare.class_word=style", "prepare.max_aspect=2", "prepare.max_upscale=1"]
    done = cli("fit", "waves", "--photos", "photos", "--json", *fast, *(a for key in style for a in ("--set", key)))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    facts = result["stages"]["1_prepare"]
    assert facts["rejected"] == {"no-framing": 1}
    assert set(facts["sizes"]) == {"96x160", "160x96", "128x128"}
    assert sum(facts["sizes"].values()) == facts["fit"]
    rejected = (tmp_path / result["run"] / "1_prepare/rejected.jsonl").read_text()
    assert "enlarged 1.8 times, at most 1" in rejected


def test_a_ratio_that_no_bucket_keeps_to_is_said(
    photos: Path, cli: Command, fast: list[str], weights: Path, tmp_path: Path
) -> None:
    done = cli("prepare", "alice", "--photos", "photos", *fast, "--set", "prepare.max_aspect=1.1")
    assert done.returncode == 0, done.stderr
    assert "samples are squares" in done.stderr
    rows = (tmp_path / "runs/alice/latest/1_prepare/metadata.jsonl").read_text()
    assert "width" not in rows
