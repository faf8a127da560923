"""The seal: a sealed photo among the training samples is found, other photos of the person are not."""

from pathlib import Path

import numpy as np
import pytest
from conftest import framed_of
from PIL import Image

from trainer.evaluate.judge import Album, look, look_at_album
from trainer.evaluate.sealed import sealed_among
from trainer.faces.base import get_detector, get_embedder
from trainer.records import RGB


@pytest.fixture(scope="module")
def album(demo_files: list[Path], weights: Path) -> Album:
    files = {str(index): path for index, path in enumerate(demo_files[:12])}
    detector = get_detector(weights)
    framed = {name: framed_of(path, detector) for name, path in files.items()}
    return look_at_album(files, framed, 10**8, detector, get_embedder("onnx", weights))


def found(samples: list[RGB], album: Album, sealed: list[str], weights: Path) -> list[int]:
    seen = look(samples, get_detector(weights), get_embedder("onnx", weights))
    return sealed_among(samples, seen, album.framed(sealed), album.of(sealed))


def test_other_photos_of_the_person_break_no_seal(album: Album, weights: Path) -> None:
    assert found(album.framed([str(index) for index in range(8)]), album, ["8", "9", "10", "11"], weights) == []


def test_a_sealed_photo_among_the_samples_is_named_even_shrunk(album: Album, weights: Path) -> None:
    small = Image.fromarray(album.portraits["9"]).resize((128, 128), Image.Resampling.LANCZOS)
    samples = [*album.framed(["0", "1"]), np.asarray(small)]
    assert found(samples, album, ["8", "9", "10"], weights) == [1]


def test_a_sealed_photo_in_a_sample_of_another_shape_is_named(album: Album, weights: Path) -> None:
    portrait = album.portraits["9"]
    tall = np.concatenate([portrait, np.repeat(portrait[-1:], 90, 0)])
    assert found([tall], album, ["8", "9", "10"], weights) == [1]
    assert found([np.ascontiguousarray(tall[:, ::-1])], album, ["8", "10"], weights) == []


def test_nothing_sealed_is_nothing_found(album: Album, weights: Path) -> None:
    assert found(album.framed(["0"]), Album({}, {}), [], weights) == []
    assert found([], album, ["0"], weights) == []
