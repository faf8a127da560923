"""What an embedder sees: one vector a picture, zero where nobody is."""

from pathlib import Path

import numpy as np
import pytest
from conftest import framed_of
from PIL import Image

from trainer.errors import PhotosError
from trainer.evaluate.judge import everyone, likeness, look, look_at_album
from trainer.evaluate.scorecard import least_alike
from trainer.faces.align import crop_square, portrait_square
from trainer.faces.base import Detector, get_detector, get_embedder
from trainer.pictures import open_picture
from trainer.records import RGB, Framed

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"
NOISE: RGB = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)


@pytest.mark.parametrize("engine", ["onnx", "dlib"])
def test_a_picture_without_a_face_scores_zero_and_counts(engine: str, weights: Path) -> None:
    face = open_picture(STRANGER, 10**7).rgb_u8
    seen = look([NOISE, face, NOISE], get_detector(weights), get_embedder(engine, weights))
    assert seen.detected.tolist() == [0, 1, 0]
    cosines = seen.cosines(seen.vectors[1:2])
    assert cosines[:, 0] == pytest.approx([0, 1, 0], abs=1e-5)


def test_nobody_anywhere_scores_zero_against_everyone(weights: Path) -> None:
    seen = look([NOISE, NOISE], get_detector(weights), get_embedder("onnx", weights))
    assert seen.cosines(np.ones((3, 512), np.float32)).tolist() == [[0, 0, 0]] * 2
    nothing = look([], get_detector(weights), get_embedder("onnx", weights))
    assert nothing.cosines(np.ones((3, 512), np.float32)).shape == (0, 3)


def test_the_largest_face_is_the_one_that_counts(weights: Path) -> None:
    detector, embedder = get_detector(weights), get_embedder("onnx", weights)
    face = open_picture(STRANGER, 10**7).rgb_u8
    small = np.full_like(face, 127)
    small[::, :128] = np.pad(face[::2, ::2], ((64, 64), (0, 0), (0, 0)), constant_values=127)
    both = np.hstack([small, face[:, ::-1]])
    (found,) = look([both], detector, embedder).faces
    assert found is not None
    assert found.box[0] > face.shape[1]


def test_everyone_in_a_picture_is_embedded(weights: Path) -> None:
    detector, embedder = get_detector(weights), get_embedder("onnx", weights)
    face = open_picture(STRANGER, 10**7).rgb_u8
    gap = np.full_like(face, 127)
    nobody, two = everyone([NOISE, np.hstack([face, gap, face[:, ::-1]])], detector, embedder)
    assert len(nobody) == 0
    assert len(two) == 2


def test_an_album_keeps_a_vector_and_a_portrait_of_each_photo(weights: Path) -> None:
    detector, embedder = get_detector(weights), get_embedder("onnx", weights)
    album = look_at_album({"a": STRANGER}, {"a": framed_of(STRANGER, detector)}, 10**7, detector, embedder)
    picture = open_picture(STRANGER, 10**7).rgb_u8
    assert album.of([]).shape == (0, 512)
    assert np.array_equal(album.of(["a"]), look([picture], detector, embedder).vectors)
    assert [portrait.shape for portrait in album.framed(["a", "a"])] == [(160, 160, 3)] * 2


def test_photos_that_went_or_changed_are_named(tmp_path: Path, weights: Path) -> None:
    detector, embedder = get_detector(weights), get_embedder("onnx", weights)
    (tmp_path / "changed.jpg").write_text("no longer a picture")
    Image.fromarray(NOISE).save(tmp_path / "faceless.png")
    for name in ("changed.jpg", "gone.jpg", "faceless.png"):
        with pytest.raises(PhotosError, match=name):
            look_at_album({name: tmp_path / name}, {name: Framed((0, 0, 9, 9), (0, 0, 9))}, 10**7, detector, embedder)


def test_whoever_stands_beside_the_person_is_the_one_least_like_them(demo_files: list[Path], weights: Path) -> None:
    detector, embedder = get_detector(weights), get_embedder("onnx", weights)
    person = portrait(demo_files[1], detector)
    stranger = portrait(STRANGER, detector)
    gap = np.full_like(person, 127)
    sealed = look_at_album(
        {"a": demo_files[0]}, {"a": framed_of(demo_files[0], detector)}, 10**8, detector, embedder
    ).of(["a"])
    pictures = [np.hstack([person, gap, other]) for other in (stranger, person[:, ::-1])]
    honest, leaking = (least_alike(everyone([picture], detector, embedder), sealed) for picture in pictures)
    assert honest is not None
    assert leaking is not None
    assert leaking > honest + 0.1
    assert least_alike(everyone([person], detector, embedder), sealed) is None  # nobody stands there


def portrait(file: Path, detector: Detector) -> RGB:
    picture = open_picture(file, 10**8).rgb_u8
    return crop_square(picture, *portrait_square(detector.detect(picture)[0].landmarks), 192)


def test_the_judge_tells_the_person_from_noise(demo_files: list[Path], weights: Path) -> None:
    photos = {path.name: path for path in demo_files[:3]}
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 128, 3), np.uint8)
    person = np.asarray(Image.open(demo_files[5]).convert("RGB"))
    eyes = get_detector(weights), get_embedder("onnx", weights)
    framed = {name: framed_of(path, eyes[0]) for name, path in photos.items()}
    found = likeness([person, noise], photos, framed, 10**8, *eyes)
    assert found[0] > 0.3
    assert found[1] == 0
