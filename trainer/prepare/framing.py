"""Where to cut the portrait out of a photo: the whole face, nobody else's, and nothing beyond the border."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from trainer.faces.align import ARCFACE_112, CENTRE, portrait_square, similarity_transform
from trainer.pictures import UnusablePicture
from trainer.records import Box, Floats, Square

# The face from the hairline to the chin as an oval in the ArcFace template. Too little is found to be missing below:
# where the chin is cut off, the landmarks draw it in.
OVAL_CENTRE, OVAL_RADII = (56.0, 68.0), (44.0, 52.0)
GRID = 24
SIDES = 33  # tried between the base's framing and the tightest
# A shift by a tenth of the side costs as much as a framing that is a tenth tighter.
SHIFT_COST = 10.0


def cut_share(landmarks: Floats, width: int, height: int) -> float:
    """0 to 1: how much of the face with these (5, 2) landmarks lies outside a picture of this size."""
    x, y = _oval(landmarks).T
    return float(((x < 0) | (y < 0) | (x >= width) | (y >= height)).mean())


def outside_share(square: Square, width: int, height: int) -> float:
    """0 to 1: how much of the square lies outside a picture of this size."""
    left, top, side = square
    inside_x = max(0.0, min(left + side, width) - max(left, 0.0))
    inside_y = max(0.0, min(top + side, height) - max(top, 0.0))
    return 1 - inside_x * inside_y / side**2


def portrait_frame(landmarks: Floats, others: Sequence[Floats], width: int, height: int) -> Square:
    """The square of the photo to learn from: the base's framing where it fits, else the closest to it that does.

    It is shifted and tightened, down to the face itself, to stay inside the photo and without the faces of `others`
    ((5, 2) landmarks each). Only where the photo is narrower than the face does it reach beyond the border.

    Raises UnusablePicture, `several-faces`, when another face cannot be left out.
    """
    wanted, apart = portrait_square(landmarks), [face_bounds(other) for other in others]
    if outside_share(wanted, width, height) <= 1e-6 and not any(_meets(wanted, other) for other in apart):
        return wanted
    face = _inside(face_bounds(landmarks), width, height)
    tightest = max(face[2] - face[0], face[3] - face[1], 1.0)
    largest = max(tightest, min(wanted[2], width, height))
    candidates = [
        square
        for side in np.geomspace(largest, tightest, SIDES)
        for square in _placed(float(side), wanted, face, apart, width, height)
    ]
    if not candidates:
        raise UnusablePicture(
            "several-faces", "another face is so close that it cannot be left out", "crop the photo to the person"
        )
    return min(candidates, key=lambda square: _cost(square, wanted))


def _placed(side: float, wanted: Square, face: Box, apart: Sequence[Box], width: int, height: int) -> Iterator[Square]:
    """Squares of this side that hold the face, stay in the photo and meet no other face: the best place and the edges
    of the others."""
    left, top = _centred(side, wanted)
    x_range, y_range = _range(face[0], face[2], side, width), _range(face[1], face[3], side, height)
    lefts = [left, *(edge for other in apart for edge in (other[0] - side, other[2]))]
    tops = [top, *(edge for other in apart for edge in (other[1] - side, other[3]))]
    for x, y in product((_clip(v, x_range) for v in lefts), (_clip(v, y_range) for v in tops)):
        if not any(_meets((x, y, side), other) for other in apart):
            yield x, y, side


def _range(low: float, high: float, side: float, length: int) -> tuple[float, float]:
    """Where a side may begin to hold `low` to `high` and stay within 0 to `length`; centred where it is longer."""
    if side > length:
        return (length - side) / 2, (length - side) / 2
    return max(0.0, high - side), min(length - side, low)


def _clip(value: float, allowed: tuple[float, float]) -> float:
    return float(min(max(value, allowed[0]), max(allowed)))


def _centred(side: float, wanted: Square) -> tuple[float, float]:
    """Left and top of the square of this side that has the face where the wanted one has it."""
    left, top, whole = wanted
    return left + CENTRE[0] * (whole - side), top + CENTRE[1] * (whole - side)


def _cost(square: Square, wanted: Square) -> float:
    """How far a square is from the wanted one: tighter, and with the face elsewhere in it."""
    left, top, side = square
    best_left, best_top = _centred(side, wanted)
    shift = ((left - best_left) ** 2 + (top - best_top) ** 2) / side**2
    return float(np.log(wanted[2] / side)) + SHIFT_COST * shift


def _meets(square: Square, box: Box) -> bool:
    left, top, side = square
    slack = 1e-3  # edges may touch
    return (
        box[0] < left + side - slack and left + slack < box[2] and box[1] < top + side - slack and top + slack < box[3]
    )


def _inside(box: Box, width: int, height: int) -> Box:
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))


def face_bounds(landmarks: Floats) -> Box:
    """(left, top, right, bottom) of the face's oval."""
    (left, top), (right, bottom) = (edge.tolist() for edge in (_oval(landmarks).min(0), _oval(landmarks).max(0)))
    return left, top, right, bottom


def _oval(landmarks: Floats) -> Floats:
    """(n, 2) points in pixels, evenly spread over the face."""
    y, x = (np.mgrid[0:GRID, 0:GRID] + 0.5) / GRID * 2 - 1
    disc = np.stack([x, y], -1)[x**2 + y**2 <= 1].astype(np.float32)
    points = disc * np.array(OVAL_RADII, np.float32) + np.array(OVAL_CENTRE, np.float32)
    matrix = similarity_transform(ARCFACE_112, landmarks)
    result: Floats = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    return result
