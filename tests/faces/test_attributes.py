"""Attributes: measured from synthetic pixels and landmarks whose answer is known, and mirrored like the picture."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.faces import attributes
from trainer.faces.align import ARCFACE_112
from trainer.faces.attributes import VOCABULARY, AttributeReader, mirrored
from trainer.faces.base import get_detector
from trainer.pictures import open_picture
from trainer.records import RGB, Face, Floats

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"
FACE = Face((20.0, 20.0, 108.0, 108.0), ARCFACE_112, 1.0)


def gray(left: int, right: int, size: int = 128) -> RGB:
    """A gray picture that goes evenly from one level to the other."""
    return np.tile(np.linspace(left, right, size).astype(np.uint8), (size, 1))


def turned(by: float, tilt: float = 0.0) -> Floats:
    """Landmarks whose nose lies that many eye distances beside the middle of the eyes, rotated by `tilt` radians."""
    points = np.array([[-0.5, 0], [0.5, 0], [by, 0.6], [-0.4, 1], [0.4, 1]])
    rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return (40 * points @ rotation + 64).astype(np.float32)


@given(st.floats(-1, 1).filter(lambda by: abs(abs(by) - attributes.TURN) > 0.01), st.floats(-0.7, 0.7))
def test_the_pose_is_the_nose_s_side_whatever_the_head_s_tilt(by: float, tilt: float) -> None:
    wanted = "facing front" if abs(by) < attributes.TURN else "turned left" if by < 0 else "turned right"
    assert attributes.pose(turned(by, tilt)) == wanted


def test_eyes_in_one_point_are_no_crash() -> None:
    assert attributes.pose(np.zeros((5, 2), np.float32)) == "facing front"


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        (220, 40, "light from the left"),
        (40, 220, "light from the right"),
        (128, 128, "even light"),
        (130, 125, "even light"),
        (0, 0, "even light"),
    ],
)
def test_light_comes_from_the_brighter_side(left: int, right: int, wanted: str) -> None:
    assert attributes.light(gray(left, right), FACE) == wanted


@pytest.mark.parametrize(("level", "wanted"), [(40, "dark"), (128, None), (220, "bright")])
def test_brightness_is_the_face_s_level(level: int, wanted: str | None) -> None:
    picture = gray(255 - level, 255 - level)
    picture[20:108, 20:108] = level
    assert attributes.brightness(picture, FACE) == wanted


def test_colour_is_the_spread_of_the_channels() -> None:
    black_and_white = np.repeat(gray(0, 255)[:, :, None], 3, 2)
    tinted = black_and_white.copy()
    tinted[:, :, 0] = np.minimum(255, tinted[:, :, 0].astype(int) + 4)
    vivid = black_and_white.copy()
    vivid[:, :, 2] //= 2
    words = [attributes.colour(picture) for picture in (black_and_white, tinted, vivid)]
    assert words == ["black and white", "black and white", "color photo"]


@pytest.mark.parametrize(("share", "wanted"), [(0.8, "close-up"), (0.6, "medium shot"), (0.3, "wide shot")])
def test_framing_is_the_face_s_share(share: float, wanted: str) -> None:
    assert attributes.framing(1000, 1000 * share) == wanted


def test_the_background_is_read_in_the_upper_corners() -> None:
    plain = np.full((128, 128), 90, np.uint8)
    busy = plain.copy()
    busy[:32, ::2] = 250
    shirt = plain.copy()
    shirt[64:, ::2] = 250
    assert [attributes.background(picture) for picture in (plain, busy, shirt)] == [
        "plain background", "busy background", "plain background",
    ]  # fmt: skip


@given(
    st.tuples(*[st.floats(-50, 300)] * 4),
    st.integers(2, 40),
    st.integers(2, 40),
)
def test_a_face_partly_or_wholly_outside_is_no_crash(box: tuple[float, ...], height: int, width: int) -> None:
    face = Face((box[0], box[1], max(box[0], box[2]), max(box[1], box[3])), ARCFACE_112, 1.0)
    picture = np.full((height, width), 128, np.uint8)
    assert attributes.light(picture, face) == "even light"
    assert attributes.brightness(picture, face) is None


@given(st.lists(st.sampled_from([*VOCABULARY, "photo of ohwx person", "left"])))
def test_mirroring_twice_gives_the_words_back(words: list[str]) -> None:
    assert mirrored(mirrored(words)) == words
    swapped = {a for a, b in zip(words, mirrored(words), strict=True) if a != b}
    assert swapped <= {"turned left", "turned right", "light from the left", "light from the right"}


def test_mirrored_words_are_those_of_the_mirrored_picture(weights: Path) -> None:
    picture = open_picture(STRANGER, 10**7).rgb_u8
    picture = (picture * np.linspace(1.0, 0.05, picture.shape[1])[None, :, None]).astype(np.uint8)
    flipped = np.ascontiguousarray(picture[:, ::-1])
    detector, reader = get_detector(weights), AttributeReader(weights)
    words, flipped_words = (
        [word for word in reader.read(view, detector.detect(view)[0]).words() if "turned" in word or "light" in word]
        for view in (picture, flipped)
    )
    assert "light from the left" in words
    assert flipped_words == mirrored(words)


def test_every_word_is_in_the_vocabulary_and_a_known_expression_is_kept(weights: Path, demo_files: list[Path]) -> None:
    detector, reader = get_detector(weights), AttributeReader(weights)
    for path in demo_files[:4]:
        picture = open_picture(path, 10**8).rgb_u8
        face = detector.detect(picture)[0]
        assert set(reader.read(picture, face).words()) <= set(VOCABULARY)
        assert reader.read(picture, face, "smiling").expression == "smiling"
