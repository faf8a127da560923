"""Samples that are no squares: buckets of about as many pixels, and which of them a part of a photo can take."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.records import Box, Crop, Shape, Square

STEPS = 16  # of the square's side: 64 of 1024 px, as SDXL has them (arXiv 2307.01952, section 2.3 and appendix I)
SLACK = 1e-3  # pixels by which edges may touch


def shapes_of(size_px: int, step_px: int, max_aspect: float) -> tuple[Shape, ...]:
    """(width, height) of the buckets, upright and lying: the square first, then ever longer ones.

    For each shorter side the longest other one that keeps to size_px^2 pixels, which is SDXL's rule and NovelAI's: the
    square is the largest bucket, and none is smaller by more than one step times `size_px`. Steps are a sixteenth of
    `size_px`, in multiples of `step_px`.

    Args:
        size_px: side of the square.
        step_px: what the sides of the base's pictures are multiples of.
        max_aspect: most times that one side may be as long as the other; 1 leaves the square alone.
    """
    step = step_px * max(1, round(size_px / STEPS / step_px))
    shapes = [(size_px, size_px)]
    for short in range((size_px - 1) // step * step, 0, -step):
        long = size_px**2 // short // step * step
        if size_px < long <= max_aspect * short:
            shapes += [(short, long), (long, short)]
    return tuple(shapes)


def nearest(shapes: Sequence[Shape], width: float, height: float) -> Shape:
    """The bucket in which most of a picture of this size is left when it is cropped; the first of equal ones."""
    return min(shapes, key=lambda shape: abs(math.log(shape[0] * height / (shape[1] * width))))


def square_crop(square: Square, size_px: int) -> Crop:
    """The square as a sample of `size_px`."""
    left, top, side = square
    return Crop(left, top, side, side, (size_px, size_px))


def widened(square: Square, shapes: Sequence[Shape], apart: Sequence[Box], width: int, height: int) -> Crop:
    """All of the square and what lies beside it in the photo, in the bucket that shows most.

    None is longer than the one nearest to the photo's own shape, leaves the photo, or shows any of the boxes `apart`.
    An upright one goes on below the square, a lying one on both sides of it, both shifted where there is no room. Where
    nothing longer fits it is the square itself, in the first of the shapes.
    """
    wanted = nearest(shapes, width, height)
    upright = wanted[1] > wanted[0]
    alike = [shape for shape in shapes if shape[0] != shape[1] and (shape[1] > shape[0]) == upright]
    for shape in sorted((shape for shape in alike if max(shape) <= max(wanted)), key=max, reverse=True):
        found = _around(square, shape, apart, width, height)
        if found is not None:
            return found
    return square_crop(square, shapes[0][0])


def touches(part: Box, other: Box) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    left, top, right, bottom = part
    across = other[0] < right - SLACK and left + SLACK < other[2]
    return across and other[1] < bottom - SLACK and top + SLACK < other[3]


def _around(square: Square, shape: Shape, apart: Sequence[Box], width: int, height: int) -> Crop | None:
    """The crop of this shape whose shorter side is the square's, at the best place along its longer one."""
    left, top, side = square
    long = side * max(shape) / min(shape)
    upright = shape[1] > shape[0]
    start, length, axis = (top, height, 1) if upright else (left, width, 0)
    across, room = (left, width) if upright else (top, height)
    low, high = max(0.0, start + side - long), min(start, length - long)
    if low > high or across < -SLACK or across + side > room + SLACK:
        return None
    best = start if upright else start - (long - side) / 2
    tried = [best, *(edge for other in apart for edge in (other[axis] - long, other[axis + 2]))]
    for place in sorted((min(max(one, low), high) for one in tried), key=lambda one: abs(one - best)):
        box = (left, place, left + side, place + long) if upright else (place, top, place + long, top + side)
        if not any(touches(box, other) for other in apart):
            return Crop(box[0], box[1], side if upright else long, long if upright else side, shape)
    return None
