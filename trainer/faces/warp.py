"""`align.aligned_to` for pictures that gradients must pass through."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from trainer.faces.align import similarity_transform
from trainer.records import Floats


def warped_to(picture: torch.Tensor, landmarks: Floats, template: Floats, size_px: int) -> torch.Tensor:
    """The (channels, size_px, size_px) crop that puts these (5, 2) landmarks on the (5, 2) template.

    Bilinear, 0 beyond the (channels, height, width) picture. Where the crop is smaller than the face, whole squares of
    pixels are averaged first: a warp alone would skip most of them, and they would get no gradient.
    """
    matrix = similarity_transform(landmarks, template).astype(np.float64)
    factor = int(1 / np.hypot(matrix[0, 0], matrix[1, 0])) or 1
    if factor > 1:
        picture = functional.avg_pool2d(picture[None], factor)[0]
        # An averaged pixel lies in the middle of its square.
        matrix = np.hstack([matrix[:, :2] * factor, matrix @ [[(factor - 1) / 2], [(factor - 1) / 2], [1]]])
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    y, x = np.mgrid[:size_px, :size_px]
    places = np.stack([x, y, np.ones_like(x)], -1) @ back.T
    height, width = picture.shape[-2:]
    places = 2 * places / [max(width - 1, 1), max(height - 1, 1)] - 1  # -1 and 1 are the outer pixels' middles
    grid = torch.from_numpy(places).to(picture.dtype).to(picture.device)
    return functional.grid_sample(picture[None], grid[None], align_corners=True)[0]
