"""The real engines load, agree with their contracts, and see no face where there is none."""

from pathlib import Path

import numpy as np
import pytest

from trainer.errors import UsageError
from trainer.faces.align import ARCFACE_112, aligned_to, dlib_chip_template, halved
from trainer.faces.base import ENGINES, cosine_matrix, get_detector, get_embedder
from trainer.faces.dlib import MODEL, DlibEmbedder
from trainer.pictures import open_picture
from trainer.records import Face

SHIPPED = [engine for engine in ENGINES if engine != "insightface"]  # its packs are the user's own
FACE = Face((20.0, 20.0, 90.0, 105.0), ARCFACE_112, 1.0)


@pytest.mark.parametrize("engine", SHIPPED)
def test_an_embedding_is_a_repeatable_unit_vector(engine: str, weights: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    embedder = get_embedder(engine, weights)
    first, second = embedder.embed(picture, FACE), embedder.embed(picture, FACE)
    assert first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shape", [(1, 1, 3), (64, 64, 3), (40, 400, 3)])
def test_a_flat_picture_has_no_face(shape: tuple[int, int, int], weights: Path) -> None:
    assert get_detector(weights).detect(np.full(shape, 128, np.uint8)) == []


def test_the_dlib_engine_says_what_dlib_says(demo_files: list[Path], weights: Path) -> None:
    import dlib

    theirs, ours = dlib.face_recognition_model_v1(str(weights / MODEL)), DlibEmbedder(weights)
    detector, noise = get_detector(weights), np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    chips = [noise, np.zeros_like(noise), np.full_like(noise, 255)]
    for path in demo_files[:6]:
        picture = open_picture(path, 10**8).rgb_u8
        chips.append(aligned_to(picture, detector.detect(picture)[0].landmarks, dlib_chip_template(), 150))
    for chip in chips:
        np.testing.assert_allclose(ours.descriptor(chip), theirs.compute_face_descriptor(chip), atol=1e-5)


def test_an_unknown_engine_lists_the_known_ones(weights: Path) -> None:
    with pytest.raises(UsageError) as caught:
        get_embedder("nobody", weights)
    assert "dlib" in caught.value.hint


@pytest.mark.parametrize("shape", [(64, 48, 3), (67, 131, 3), (7, 500, 3)])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_halving_keeps_the_mean_and_the_place(shape: tuple[int, int, int], times: int) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    ramp = np.stack([255 * x / shape[1], 255 * y / shape[0], 0 * x + 9], 2).astype(np.uint8)
    small, step = halved(ramp, times), 2**times
    assert small.shape == (shape[0] // step, shape[1] // step, 3)
    blocks = ramp[: shape[0] // step * step, : shape[1] // step * step].astype(float)
    blocks = blocks.reshape(small.shape[0], step, small.shape[1], step, 3).mean((1, 3))
    assert np.abs(small - blocks).max() <= 1


def test_cosines_of_nothing_are_an_empty_table() -> None:
    assert cosine_matrix([], [ARCFACE_112[0]]).shape == (0, 1)
