"""Ages and sexes that captions guess: as the layers' maker computes them, and only said where they are clear."""

import json
from collections.abc import Callable
from pathlib import Path

import ages
import captions
import kept_faces
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.faces.base import get_detector
from trainer.records import Face


@pytest.fixture(scope="module")
def reader(weights: Path) -> ages.AgeReader:
    return ages.AgeReader(weights)


def test_the_demo_shows_one_woman_and_a_black_picture_nobody(
    weights: Path, demo_files: list[Path], tmp_path: Path
) -> None:
    faces = [np.asarray(Image.open(file).convert("RGB").resize((128, 128))) for file in demo_files[:6]]
    guessed = kept_faces.ages_in([*faces, np.zeros((128, 128, 3), np.uint8)], weights, tmp_path)
    assert (guessed[:6, 1] < 0.5).all()
    assert ((guessed[:6, 0] > 10) & (guessed[:6, 0] < 80)).all()
    assert np.isnan(guessed[6]).all()
    (kept,) = tmp_path.iterdir()
    np.save(kept, guessed + 1)  # what is kept is what comes back
    again = kept_faces.ages_in([*faces, np.zeros((128, 128, 3), np.uint8)], weights, tmp_path)
    assert np.array_equal(again, guessed + 1, equal_nan=True)


def test_a_face_reads_the_same_alone_and_among_others(
    reader: ages.AgeReader, weights: Path, demo_files: list[Path]
) -> None:
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in demo_files[:3]]
    faces = [get_detector(weights).detect(picture)[0] for picture in pictures]
    together = reader.read(pictures, faces)
    alone = [reader.read([picture], [face])[0] for picture, face in zip(pictures, faces, strict=True)]
    assert np.allclose(together, alone, atol=1e-3)


def test_a_box_beyond_the_picture_is_read_within_it_and_centered() -> None:
    picture = np.full((60, 60, 3), 255, np.uint8)
    face = Face((-20.0, 10.0, 30.0, 50.0), np.zeros((5, 2)), 1.0)
    square = ages.square(picture, face)  # 30 wide, 40 high: an eighth of the width is black on either side
    assert square.shape == (ages.SIDE_PX, ages.SIDE_PX, 3)
    assert square[:, 14 + 2 : -14 - 2].min() == 255
    assert square[:, : 14 - 2].max() == square[:, -14 + 2 :].max() == 0


@given(side=st.integers(1, 64), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]))
def test_padded_planes_become_as_many_steps_as_there_are_strides(side: int, kernel: int, stride: int) -> None:
    plane = torch.zeros(1, 1, side, side)
    left, right, top, bottom = ages.same(plane, kernel, stride)
    assert (left, right) == (top, bottom)
    assert right - left in (0, 1)
    padded = side + left + right
    assert padded >= kernel or stride > kernel
    assert (padded - kernel) // stride + 1 == -(-side // stride)


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=20),
    scale=st.floats(1e-3, 1),
    low=st.floats(-2, 2, allow_subnormal=False),  # a training before this test flushes such numbers to zero
)
def test_stored_tensors_come_back_in_order_with_scale_and_offset(values: list[int], scale: float, low: float) -> None:
    small = {"name": "a", "shape": [len(values)], "quantization": {"dtype": "uint8", "scale": scale, "min": low}}
    plain = {"name": "b", "shape": [2, 1]}
    stored = np.array(values, np.uint8).tobytes() + np.array([0.5, -3], "<f4").tobytes()
    found = ages.unpacked(stored, json.loads(json.dumps([{"weights": [small, plain]}])))
    assert np.allclose(found["a"].numpy(), np.array(values) * scale + low, atol=1e-4)
    assert found["b"].tolist() == [[0.5], [-3.0]]


@pytest.mark.parametrize(
    ("years", "words"),
    [
        (33, ["young"]),
        (34, []),
        (39, []),
        (40, ["middle-aged"]),
        (58, ["middle-aged"]),
        (64, []),
        (65, ["old"]),
        (float("nan"), []),
    ],
)
def test_an_age_near_another_word_is_not_said(years: float, words: list[str]) -> None:
    assert captions.guessed_age(years) == words


def test_what_the_source_says_comes_before_a_guess() -> None:
    nothing = float("nan")
    assert captions.known_words({}, 70, 0.95) == ["man", "old"]
    assert captions.known_words({}, 70, 0.6) == ["person", "old"]
    assert captions.known_words({}, nothing, nothing) == ["person"]
    assert captions.known_words({"sex": "female", "age": "20", "group": "asian"}, 70, 0.95) == [
        "woman",
        "young",
        "asian",
    ]


@pytest.mark.usefixtures("weights")
def test_captions_of_new_pictures_say_age_and_sex(
    demo_files: list[Path], tmp_path: Path, write_imagefolder: Callable[[Path, list[Path]], Path]
) -> None:
    folder = write_imagefolder(tmp_path / "pictures", demo_files[:3])
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": line["file_name"]}) for line in lines))
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((128, 128))) for file in demo_files[:3]])
    words = captions.load_words(folder, pixels, tmp_path / "words.json")
    assert all(said[0] in ("woman", "person") for said in words)
    assert captions.load_words(folder, pixels, tmp_path / "words.json") == words
    assert not (tmp_path / "words").exists()
