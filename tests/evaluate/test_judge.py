"""What an embedder sees: one vector a picture, zero where nobody is."""

from pathlib import Path

import numpy as np
import pytest

from trainer.errors import PhotosError
from trainer.evaluate.judge import look, read_photos
from trainer.faces.base import get_detector, get_embedder
from trainer.records import RGB

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"
NOISE: RGB = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)


@pytest.mark.parametrize("engine", ["onnx", "dlib"])
def test_a_picture_without_a_face_scores_zero_and_counts(engine: str, weights: Path) -> None:
    face = read_photos([STRANGER], 10**7)[0]
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
    face = read_photos([STRANGER], 10**7)[0]
    small = np.full_like(face, 127)
    small[::, :128] = np.pad(face[::2, ::2], ((64, 64), (0, 0), (0, 0)), constant_values=127)
    both = np.hstack([small, face[:, ::-1]])
    (found,) = look([both], detector, embedder).faces
    assert found is not None
    assert found.box[0] > face.shape[1]


def test_photos_that_went_or_changed_are_named(tmp_path: Path) -> None:
    (tmp_path / "changed.jpg").write_text("no longer a picture")
    for name in ("changed.jpg", "gone.jpg"):
        with pytest.raises(PhotosError, match=name):
            read_photos([tmp_path / name], 10**7)
