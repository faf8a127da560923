"""Fine detail: a blur takes it, sharpening does not bring it back, light and size do not change it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trainer.evaluate.detail import detail, face_detail
from trainer.records import RGB, Face

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"


def box(side: float) -> Face:
    return Face((0.0, 0.0, side, side), np.zeros((5, 2), np.float32), 1.0)


def found(picture: RGB) -> float:
    value = face_detail(picture, box(picture.shape[0]))
    assert value is not None
    return value


@pytest.fixture(scope="module")
def photo() -> RGB:
    with Image.open(STRANGER) as image:
        side = min(image.size)
        return np.asarray(image.convert("RGB").crop((0, 0, side, side)).resize((128, 128), Image.Resampling.LANCZOS))


def test_noise_has_as_much_as_its_rings_are_wide() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 1), np.uint8).repeat(3, axis=2)
    assert found(noise) == pytest.approx(2.0, abs=0.2)  # white: the energy goes with the area, four times as large


@pytest.mark.parametrize("sigma", [1.8, 2.5, 3.5])
def test_a_blur_takes_it_and_sharpening_does_not_bring_it_back(photo: RGB, sigma: float) -> None:
    blurred = Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma))
    sharpened = blurred.filter(ImageFilter.UnsharpMask(2, 300, 0))
    assert found(np.asarray(blurred)) < found(photo) - 1
    assert found(np.asarray(sharpened)) < found(photo) - 1


def test_light_does_not_change_it(photo: RGB) -> None:
    darker = (photo * 0.6 + 20).round().astype(np.uint8)
    assert found(darker) == pytest.approx(found(photo), abs=0.05)


def test_the_mean_leaves_out_nobody_and_faces_too_small(photo: RGB) -> None:
    assert detail([photo, photo, photo], [box(128), None, box(20)]) == found(photo)
    assert detail([photo], [None]) is None
    assert detail([], []) is None
