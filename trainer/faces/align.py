"""Similarity transforms from five landmarks: the 112 px embedding crop and the base's framing."""

from __future__ import annotations

import cv2
import numpy as np

from trainer.records import RGB, Crop, Floats, Shape, Square

# The 5-point template of a 112 px ArcFace crop (insightface, utils/face_align.py, arcface_dst).
ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)


def similarity_transform(source: Floats, target: Floats) -> Floats:
    """The (2, 3) rotation, scale and shift that best maps `source` (n, 2) on `target` (n, 2).

    Least squares after Umeyama, IEEE TPAMI 13(4), 1991, eq. 40-42.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / a.var(0).sum()
    shift = target_mean - scale * rotation @ source_mean
    matrix: Floats = np.hstack([scale * rotation, shift[:, None]]).astype(np.float32)
    return matrix


def aligned_to(rgb_u8: RGB, landmarks: Floats, template: Floats, size_px: int) -> RGB:
    """The (size_px, size_px, 3) uint8 crop that puts these (5, 2) landmarks on the (5, 2) template."""
    matrix = similarity_transform(landmarks, template)
    crop: RGB = cv2.warpAffine(rgb_u8, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR).astype(np.uint8)
    return crop


def aligned_112(rgb_u8: RGB, landmarks: Floats) -> RGB:
    """The (112, 112, 3) uint8 ArcFace crop of the face with these (5, 2) landmarks."""
    return aligned_to(rgb_u8, landmarks, ARCFACE_112, 112)


def mirrored_landmarks(landmarks: Floats, width: int) -> Floats:
    """The (5, 2) landmarks in the mirror image of a picture of this width in pixels: sides change places too."""
    exchanged = landmarks[[1, 0, 2, 4, 3]]
    return np.stack([width - 1 - exchanged[:, 0], exchanged[:, 1]], 1).astype(np.float32)


def dlib_chip_template() -> Floats:
    """(5, 2) landmarks in dlib's 150 px chip: the ArcFace template scaled and shifted.

    Of six scales and shifts tried on 30 LFW people this tells them apart best (centred d' 4.59); on 30 others it
    gives 4.43: `scripts/bench/face_engines.py --people FOLDER`, 8 photos each.
    """
    return (ARCFACE_112 * np.float32(1.6) + np.array([-15, -39], np.float32)).astype(np.float32)


def halved(rgb_u8: RGB, times: int) -> RGB:
    """The picture at 1/2^times of its size, each time the mean of 2 by 2 pixels; an odd last row or column is left out.

    Ten times as quick as one step of cv2.INTER_AREA to a size that is no such fraction.
    """
    for _ in range(times):
        height, width = rgb_u8.shape[0] // 2, rgb_u8.shape[1] // 2
        even = rgb_u8[: 2 * height, : 2 * width]
        rgb_u8 = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return rgb_u8


def crop_square(rgb_u8: RGB, left: float, top: float, side: float, size_px: int) -> RGB:
    """The square resampled to (size_px, size_px, 3) uint8; what lies outside the picture repeats its edge."""
    return _resampled(rgb_u8, left, top, size_px / side, (size_px, size_px))


def cropped(rgb_u8: RGB, crop: Crop) -> RGB:
    """The (height, width, 3) uint8 sample of a crop; what lies outside the picture repeats its edge."""
    return _resampled(rgb_u8, crop.left, crop.top, crop.size[0] / crop.width, crop.size)


def _resampled(rgb_u8: RGB, left: float, top: float, scale: float, size: Shape) -> RGB:
    """What begins at (left, top), at this scale, to (width, height) pixels."""
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]], np.float32)
    source = rgb_u8
    if scale < 0.5:  # shrink in whole steps first: a warp alone would alias
        factor = int(1 / scale)
        source = cv2.resize(rgb_u8, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA).astype(np.uint8)
        matrix[:, :2] *= factor
    crop: RGB = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(
        np.uint8
    )
    return crop


# Where the embedded base's training pictures have a face, as fractions of the picture (means over 288 LFW pictures of
# scripts/base/pictures.py's framing): centre of the five landmarks, distance of the eyes, and of eyes and mouth.
CENTRE, EYES, EYES_TO_MOUTH = (0.505, 0.58), 0.274, 0.296


def portrait_square(landmarks: Floats) -> Square:
    """Left, top and side, in pixels, of the base's framing of these (5, 2) landmarks; it may reach beyond the photo."""
    eyes = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    drop = float(np.linalg.norm((landmarks[3] + landmarks[4] - landmarks[0] - landmarks[1]) / 2))
    side = max(eyes / EYES, drop / EYES_TO_MOUTH)  # a turned head has close eyes, a bowed one a close mouth
    x, y = (float(v) for v in landmarks.mean(0))
    return x - CENTRE[0] * side, y - CENTRE[1] * side, side
