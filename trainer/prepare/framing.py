"""Where to cut the portrait out of a photo: the whole face, nobody else's, and nothing beyond the border."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from trainer.faces.align import ARCFACE_112, CENTRE, portrait_square, similarity_transform
from trainer.pictures import UnusablePicture
from trainer.prepare.buckets import square_crop, touches, widened
from trainer.records import Box, Crop, Floats, Shape, Square

# The face from the hairline to the chin as an oval in the ArcFace template. Too little is found to be missing below:
# where the chin is cut off, the landmarks draw it in.
OVAL_CENTRE, OVAL_RADII = (56.0, 68.0), (44.0, 52.0)
GRID = 24
SIDES = 33  # tried between the base's framing and the tightest
# A shift by a tenth of the side costs as much as a framing that is a tenth tighter.
SHIFT_COST = 10.0
FACE_FRAMING = "face"  # the base's own: the head
# Wider squares: how many times as wide as the base's, and where the landmarks' centre lies, as shares of the side.
# With 63 mm between the eyes the base's framing is 230 mm wide, so these are 500 and 870 mm, with 5 to 6 cm of air.
WIDER = {"head-and-shoulders": (2.2, (0.5, 0.37)), "half-body": (3.8, (0.5, 0.22))}
NARROWEST, MOST_SHIFT = 0.85, 0.15  # of the side wanted; beyond, a photo does not have that framing
WIDER_SIDES = 7  # tried between the two


@dataclass(frozen=True, slots=True)
class Framings:
    """Which framings are asked of a photo; meanings as in `trainer.sections.PrepareSection`.

    Attributes:
        size_px: side of the samples.
        shapes: what they may be beside squares; see `trainer.prepare.buckets.shapes_of`.
    """

    names: tuple[str, ...] = (FACE_FRAMING,)
    size_px: int = 1
    max_upscale: float | None = None
    shapes: tuple[Shape, ...] = ()


FACE_ALONE = Framings()


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


def framings_of(
    asked: Framings, frame: Square, landmarks: Floats, others: Sequence[Floats], width: int, height: int
) -> dict[str, Crop]:
    """The parts asked for that the photo has, by name; empty where the square of the base's own framing is asked for.

    With `asked.shapes` each framing is its square and what the photo shows beside it: see `buckets.widened`.
    `frame` is `portrait_frame` of the same. Raises UnusablePicture, `no-framing`, where the photo has none of them.
    """
    found: dict[str, Crop] = {}
    missing, apart = [], [face_bounds(other) for other in others]
    for name in asked.names:
        square = frame if name == FACE_FRAMING else wider_frame(name, landmarks, others, width, height)
        if square is None:
            missing.append(f"{name} does not fit into the photo")
            continue
        crop = (
            widened(square, asked.shapes, apart, width, height) if asked.shapes else square_crop(square, asked.size_px)
        )
        if asked.max_upscale is not None and crop.size[0] > asked.max_upscale * crop.width:
            times = crop.size[0] / crop.width
            missing.append(f"{name} would be enlarged {times:.1f} times, at most {asked.max_upscale:g}")
        else:
            found[name] = crop
    if not found:
        raise UnusablePicture(
            "no-framing", "; ".join(missing), "use a larger photo, or change prepare.framings or prepare.max_upscale"
        )
    return {} if asked.names == (FACE_FRAMING,) and not asked.shapes else found


def wider_frame(name: str, landmarks: Floats, others: Sequence[Floats], width: int, height: int) -> Square | None:
    """The square of `WIDER` around the face with these (5, 2) landmarks; None where the photo does not have it.

    It may be shifted and narrowed a little to stay inside the photo and without the faces of `others`.
    """
    factor, centre = WIDER[name]
    side = factor * portrait_square(landmarks)[2]
    x, y = (float(v) for v in landmarks.mean(0))
    wanted = x - centre[0] * side, y - centre[1] * side, side
    face, apart = _inside(face_bounds(landmarks), width, height), [face_bounds(other) for other in others]
    candidates = [
        square
        for tried in np.geomspace(side, NARROWEST * side, WIDER_SIDES)
        if tried <= min(width, height)
        for square in _placed(float(tried), wanted, face, apart, width, height, centre)
        if _shift(square, wanted, centre) <= MOST_SHIFT**2
    ]
    return min(candidates, key=lambda square: _cost(square, wanted, centre), default=None)


def _placed(
    side: float, wanted: Square, face: Box, apart: Sequence[Box], width: int, height: int,
    centre: tuple[float, float] = CENTRE,
) -> Iterator[Square]:  # fmt: skip
    """Squares of this side that hold the face, stay in the photo and meet no other face: the best place and the edges
    of the others."""
    left, top = _centred(side, wanted, centre)
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


def _centred(side: float, wanted: Square, centre: tuple[float, float]) -> tuple[float, float]:
    """Left and top of the square of this side that has the face where the wanted one has it."""
    left, top, whole = wanted
    return left + centre[0] * (whole - side), top + centre[1] * (whole - side)


def _cost(square: Square, wanted: Square, centre: tuple[float, float] = CENTRE) -> float:
    """How far a square is from the wanted one: tighter, and with the face elsewhere in it."""
    return float(np.log(wanted[2] / square[2])) + SHIFT_COST * _shift(square, wanted, centre)


def _shift(square: Square, wanted: Square, centre: tuple[float, float]) -> float:
    """How far the face is from where the wanted square has it, as a share of the side, squared."""
    left, top, side = square
    best_left, best_top = _centred(side, wanted, centre)
    return ((left - best_left) ** 2 + (top - best_top) ** 2) / side**2


def _meets(square: Square, box: Box) -> bool:
    left, top, side = square
    return touches((left, top, left + side, top + side), box)


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
