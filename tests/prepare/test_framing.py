"""The square that is learned from: inside the photo, the face whole, nobody else in it; the base's where that fits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.faces.align import ARCFACE_112, portrait_square
from trainer.faces.base import get_detector
from trainer.pictures import UnusablePicture, open_picture
from trainer.prepare.framing import cut_share, face_bounds, outside_share, portrait_frame
from trainer.records import Floats

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"


def face_at(x: float, y: float, size: float = 112.0) -> Floats:
    """Landmarks of an upright face around (x, y), in the template's scale at 112."""
    return ((ARCFACE_112 - ARCFACE_112.mean(0)) * size / 112 + [x, y]).astype(np.float32)


@pytest.mark.parametrize("side", ["left", "top"])
@pytest.mark.parametrize("share", [0.12, 0.25])
def test_how_much_of_a_face_is_cut_off_is_seen_in_the_cut_photo_alone(side: str, share: float, weights: Path) -> None:
    detector = get_detector(weights)
    whole = open_picture(STRANGER, 10**8).rgb_u8
    landmarks = detector.detect(whole)[0].landmarks
    left, top, right, bottom = face_bounds(landmarks)
    x, y = round(share * (right - left)), round(share * (bottom - top))
    from_left, from_top = (round(left) + x, 0) if side == "left" else (0, round(top) + y)
    cut = np.ascontiguousarray(whole[from_top:, from_left:])
    moved = landmarks - np.array([from_left, from_top], np.float32)
    truth = cut_share(moved, cut.shape[1], cut.shape[0])
    assert truth > share / 2
    assert cut_share(detector.detect(cut)[0].landmarks, cut.shape[1], cut.shape[0]) == pytest.approx(truth, abs=0.12)
    assert cut_share(landmarks, whole.shape[1], whole.shape[0]) == 0


def test_the_base_s_own_framing_is_kept_to_the_bit_where_it_fits() -> None:
    landmarks = face_at(125, 130)  # a photo of 250 px whose face fills 40%
    assert portrait_frame(landmarks, [], 250, 250) == portrait_square(landmarks)


def test_a_face_near_the_border_is_framed_tighter_and_inside() -> None:
    landmarks = face_at(46, 130)
    assert outside_share(portrait_square(landmarks), 250, 250) > 0.05
    frame = portrait_frame(landmarks, [], 250, 250)
    assert outside_share(frame, 250, 250) == pytest.approx(0, abs=1e-6)
    assert 0.6 < frame[2] / portrait_square(landmarks)[2] < 1


def test_a_photo_narrower_than_the_face_is_filled_up_and_no_more_than_that() -> None:
    landmarks = face_at(35, 130)
    frame = portrait_frame(landmarks, [], 70, 250)
    assert 0 < outside_share(frame, 70, 250) < outside_share(portrait_square(landmarks), 70, 250) / 1.5


def test_the_other_face_stays_outside_whichever_is_meant() -> None:
    a, b = face_at(100, 150), face_at(200, 140)
    for one, other in ((a, b), (b, a)):
        assert meets(portrait_square(one), other)
        frame = portrait_frame(one, [other], 300, 300)
        assert not meets(frame, other)
        assert holds(frame, one)


def test_cheek_to_cheek_cannot_be_parted() -> None:
    with pytest.raises(UnusablePicture) as caught:
        portrait_frame(face_at(100, 150), [face_at(160, 150)], 300, 300)
    assert caught.value.code == "several-faces"
    assert "left out" in caught.value.reason


@given(
    st.tuples(st.integers(64, 600), st.integers(64, 600)),
    st.tuples(st.floats(-0.1, 1.1), st.floats(-0.1, 1.1), st.floats(30, 400)),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(30, 400)), max_size=3),
)
def test_any_frame_holds_the_face_and_nobody_else(
    size: tuple[int, int], place: tuple[float, float, float], others: list[tuple[float, float, float]]
) -> None:
    width, height = size
    landmarks, *rest = (face_at(x * width, y * height, px) for x, y, px in [place, *others])
    try:
        frame = portrait_frame(landmarks, rest, width, height)
    except UnusablePicture:
        if not rest:
            raise
        return
    assert not any(meets(frame, other) for other in rest)
    assert frame[2] > 0
    if frame == portrait_square(landmarks):
        return
    assert frame[2] <= portrait_square(landmarks)[2] * 1.001
    left, top, right, bottom = face_bounds(landmarks)
    if min(right, width) - max(left, 0) > 1 and min(bottom, height) - max(top, 0) > 1:
        assert holds(frame, landmarks, width, height)
        if max(right - left, bottom - top) < min(width, height):
            assert outside_share(frame, width, height) == pytest.approx(0, abs=1e-4)


def meets(frame: tuple[float, float, float], landmarks: Floats) -> bool:
    """Whether the frame shows a part of that face."""
    left, top, right, bottom = face_bounds(landmarks)
    x, y, side = frame
    return left < x + side - 0.01 and x < right - 0.01 and top < y + side - 0.01 and y < bottom - 0.01


def holds(frame: tuple[float, float, float], landmarks: Floats, width: int = 10**6, height: int = 10**6) -> bool:
    """Whether the frame shows all of that face that the photo shows."""
    left, top, right, bottom = face_bounds(landmarks)
    x, y, side = frame
    within_x = x <= max(left, 0) + 0.01 and min(right, width) <= x + side + 0.01
    return within_x and y <= max(top, 0) + 0.01 and min(bottom, height) <= y + side + 0.01
