"""One clear face: the faces' sizes and scores decide, each refusal has its own code."""

import cv2
import numpy as np
import pytest

from trainer.faces.align import ARCFACE_112
from trainer.pictures import UnusablePicture
from trainer.prepare.quality import Limits, check_sharpness, sharpness, single_face
from trainer.records import Face

LIMITS = Limits(min_face_px=48, min_sharpness=12.0, min_detection=0.7, second_face=0.6)


def face(width: float, score: float = 0.99) -> Face:
    return Face((0.0, 0.0, width, width), ARCFACE_112, score)


def test_the_largest_face_is_the_person_and_small_ones_are_passers_by() -> None:
    assert single_face([face(59), face(100), face(30)], LIMITS).width == 100


def test_an_unsure_second_face_does_not_count() -> None:
    assert single_face([face(100), face(90, score=0.69)], LIMITS).width == 100


@pytest.mark.parametrize(
    ("faces", "code"),
    [
        ([], "no-face"),
        ([face(100, score=0.69)], "no-face"),
        ([face(100), face(60)], "several-faces"),
        ([face(47.9)], "face-too-small"),
    ],
)
def test_every_refusal_has_its_code(faces: list[Face], code: str) -> None:
    with pytest.raises(UnusablePicture) as caught:
        single_face(faces, LIMITS)
    assert caught.value.code == code
    assert caught.value.hint


def test_blur_lowers_the_sharpness_whatever_the_picture_s_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    sharp = sharpness(noise, face(112))
    blurred = sharpness(cv2.GaussianBlur(noise, (0, 0), 4).astype(np.uint8), face(112))
    large = cv2.resize(noise, (448, 448), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    assert sharp > 50 * blurred
    assert sharpness(large, Face((0.0, 0.0, 448.0, 448.0), ARCFACE_112 * 4, 1.0)) > 10 * blurred
    with pytest.raises(UnusablePicture) as caught:
        check_sharpness(11.9, LIMITS)
    assert caught.value.code == "blurred"
    check_sharpness(12.0, LIMITS)
