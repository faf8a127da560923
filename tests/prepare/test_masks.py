"""Masks: the real models on the demo person, what is written, and what the loss makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.faces.align import crop_square, portrait_square
from trainer.faces.base import get_detector
from trainer.faces.masks import Masker
from trainer.fit.cache import mask_weights, read_samples, weights_of
from trainer.pictures import open_picture
from trainer.prepare.mask import box_mask, mask_of
from trainer.records import RGB, Face
from trainer.weights import MASKS, fetch, needed

SIZE = 128


@pytest.fixture(scope="module")
def masker(weights: Path) -> Masker:
    fetch(weights, files=needed(MASKS))
    return Masker(weights)


@pytest.fixture(scope="module")
def crops(demo_files: list[Path], weights: Path) -> list[tuple[RGB, Face]]:
    """Samples of the demo person, each with its face."""
    detector, found = get_detector(weights), []
    for path in demo_files[:6]:
        picture = open_picture(path, 10**8).rgb_u8
        crop = crop_square(picture, *portrait_square(detector.detect(picture)[0].landmarks), SIZE)
        found.append((crop, detector.detect(crop)[0]))
    return found


def test_the_face_lies_in_its_outline_and_the_corners_do_not(masker: Masker, crops: list[tuple[RGB, Face]]) -> None:
    for crop, face in crops:
        mask = masker.face(crop, face)
        assert mask is not None
        assert (mask.shape, mask.dtype) == (crop.shape[:2], np.uint8)
        for x, y in face.landmarks.round().astype(int):
            assert mask[y, x] == 255
        assert mask[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
        assert 0.25 < mask.mean() / 255 < 0.5
        assert (masker.face(crop, face) == mask).all()


def test_the_mirror_image_has_the_mirrored_outline(masker: Masker, crops: list[tuple[RGB, Face]]) -> None:
    crop, face = crops[1]
    mirrored = face.landmarks[[1, 0, 2, 4, 3]] * np.float32([-1, 1]) + np.float32([SIZE - 1, 0])
    left, top, right, bottom = face.box
    there = masker.face(
        np.ascontiguousarray(crop[:, ::-1]), Face((SIZE - right, top, SIZE - left, bottom), mirrored, face.score)
    )
    here = masker.face(crop, face)
    assert here is not None
    assert there is not None
    a, b = here > 127, there[:, ::-1] > 127
    assert (a & b).sum() / (a | b).sum() > 0.9


def test_the_person_is_the_face_and_more_and_not_the_wall(masker: Masker, crops: list[tuple[RGB, Face]]) -> None:
    for crop, face in crops:
        outline, person = masker.face(crop, face), masker.person(crop)
        assert outline is not None
        assert person[outline == 255].mean() > 0.95 * 255
        assert person.mean() > 1.3 * outline.mean()
        assert min(person[:12, :12].mean(), person[:12, -12:].mean()) < 40
    assert masker.person(np.full((SIZE, SIZE, 3), 127, np.uint8)).mean() < 128


def test_no_face_in_noise_falls_back_on_the_box(masker: Masker) -> None:
    rng = np.random.default_rng(0)
    landmarks = np.float32([[45, 60], [80, 60], [62, 80], [50, 100], [75, 100]])
    face = Face((30, 30, 100, 100), landmarks, 0.9)
    for _ in range(4):
        noise = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        mask, kind = mask_of("face", masker, noise, face, face.box)
        assert kind == "box"
        assert (mask == box_mask(noise, face.box)).all()
        assert mask_of("face", masker, noise, None, face.box)[1] == "box"
    flat = np.full((SIZE, SIZE, 3), 255, np.uint8)
    assert masker.person(flat)[30:100, 30:100].mean() < 128
    assert mask_of("person", masker, flat, face, face.box)[1] == "box"


@given(st.lists(st.floats(-200, 400), min_size=4, max_size=4))
def test_a_box_beyond_the_sample_is_still_a_mask(box: list[float]) -> None:
    mask = box_mask(np.zeros((96, 128, 3), np.uint8), (box[0], box[1], box[2], box[3]))
    assert mask.shape == (96, 128)
    assert mask.max() == 255


@given(st.floats(1, 20), st.integers(2, 16), st.integers(2, 16))
def test_weights_of_a_mask_have_mean_1_and_its_range(face_weight: float, height: int, width: int) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    weight = mask_weights(mask, height, width, face_weight)
    assert weight.shape == (1, height, width)
    assert float(weight.mean()) == pytest.approx(1, abs=1e-5)
    if height % 2 == 0:
        assert float(weight.max() / weight.min()) == pytest.approx(face_weight, rel=1e-4)


def test_half_a_pixel_covered_weighs_half() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[:, 1:] = 255
    weight = mask_weights(mask, 2, 2, 3.0)[0]
    assert (weight[:, 1] / weight[:, 0]).tolist() == pytest.approx([1.5, 1.5])


@pytest.mark.parametrize("kind", ["face", "person"])
def test_a_run_writes_masks_and_fits_with_them(
    kind: str, photos: Path, tmp_path: Path, cli: Command, fast: list[str], masker: Masker
) -> None:
    arguments = ["alice", "--photos", "photos", "--json", *fast]
    done = cli("fit", *arguments, "--set", f"fit.mask={kind}", "--set", "fit.face_weight=5")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    run = Path(result["run"])
    prepared = tmp_path / run / "1_prepare"
    facts = result["stages"]["1_prepare"]
    rows = [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]
    assert facts["masked"] == {kind: facts["fit"]}
    assert {row["masked"] for row in rows} == {kind}
    for row in rows:
        assert row["mask_file_name"] == row["file_name"].replace("images/", "masks/")
        with Image.open(prepared / row["mask_file_name"]) as mask:
            assert (mask.mode, mask.size) == ("L", (SIZE, SIZE))
    sample = read_samples(prepared)[0]
    weight = weights_of(sample, 16, 16, 5.0)
    mask_u8 = np.asarray(Image.open(str(sample.mask)))
    assert torch.equal(weight, mask_weights(mask_u8, 16, 16, 5.0))
    assert float(weight[0, 9, 8] / weight.min()) > 3
    lock = json.loads((tmp_path / run / "lock.json").read_text())
    assert set(lock["weights"]) == set(needed(MASKS))
    loaded = load_dataset("imagefolder", data_dir=str(prepared), split="train", cache_dir=str(tmp_path / "cache"))
    assert {"image", "text", "face_box", "masked"} <= set(loaded[0])
    assert len(loaded) == len(rows)
    assert {row["image"].size for row in loaded} == {(SIZE, SIZE)}


def test_without_the_key_no_mask_is_made(trained: dict[str, object]) -> None:
    result, home = trained["result"], trained["home"]
    assert isinstance(result, dict)
    assert isinstance(home, Path)
    prepared = home / result["run"] / "1_prepare"
    assert not (prepared / "masks").exists()
    assert "masked" not in result["stages"]["1_prepare"]
    rows = [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]
    assert all(set(row) == {"file_name", "text", "face_box"} for row in rows)
    lock = json.loads((home / result["run"] / "lock.json").read_text())
    assert set(lock["weights"]) == set(needed())
