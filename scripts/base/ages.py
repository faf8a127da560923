"""Age and sex of a face as a small network guesses them, for captions of pictures whose source does not say.

The weights are face-api's age and gender network (MIT), a small Xception (Chollet 2017, arXiv 1610.02357); they are
stored in 8 bits with a scale and an offset a tensor, listed beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from trainer.records import RGB, Face
from trainer.weights import verified

SIDE_PX = 112
MEAN_RGB = (122.782, 117.001, 104.298)
YOUNG, OLD = 35, 60  # years from which a face is middle-aged, and old
AGE_WORDS = ("young", "middle-aged", "old")


def age_word(age: float) -> str:
    """One of `AGE_WORDS`."""
    return AGE_WORDS[int(age >= YOUNG) + int(age >= OLD)]


class AgeReader:
    """Guesses from pixels alone; `weights` is the folder of pinned model files."""

    def __init__(self, weights: Path) -> None:
        layers = verified("age_gender_model.json", weights)
        self._weights = unpacked(verified("age_gender_model.bin", weights).read_bytes(), json.loads(layers.read_text()))

    @torch.no_grad()
    def read(self, pictures: Sequence[RGB], faces: Sequence[Face]) -> np.ndarray:
        """(n, 2) float32: years, and the probability that the face is a man's; means of it and its mirror image."""
        squares = np.stack([square(picture, face) for picture, face in zip(pictures, faces, strict=True)])
        x = torch.from_numpy(squares).permute(0, 3, 1, 2).float() - torch.tensor(MEAN_RGB).view(1, 3, 1, 1)
        return ((self._read(x) + self._read(x.flip(3))) / 2).numpy()

    def _read(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self._conv(x / 256, "entry_flow/conv_in", stride=2))
        x = self._halved(x, x, "entry_flow/reduction_block_0")  # its input is active already
        x = self._halved(x, F.relu(x), "entry_flow/reduction_block_1")
        for block in ("middle_flow/main_block_0", "middle_flow/main_block_1"):
            x = x + self._separable(F.relu(x), block, count=3)
        x = self._halved(x, F.relu(x), "exit_flow/reduction_block")
        x = F.relu(self._separable_one(x, "exit_flow/separable_conv"))
        pooled = F.avg_pool2d(x, 7).flatten(1)
        years, sexes = self._linear(pooled, "fc/age"), self._linear(pooled, "fc/gender").softmax(1)
        return torch.cat([years, sexes[:, :1]], 1)

    def _halved(self, x: torch.Tensor, active: torch.Tensor, block: str) -> torch.Tensor:
        """Half the side: two separable convolutions of `active` and a pooling, beside a plain convolution of `x`."""
        deep = self._separable(active, block, count=2)
        pooled = F.max_pool2d(F.pad(deep, same(deep, 3, 2), value=-torch.inf), 3, 2)
        return pooled + self._conv(x, f"{block}/expansion_conv", stride=2)

    def _separable(self, x: torch.Tensor, block: str, count: int) -> torch.Tensor:
        for index in range(count):
            x = self._separable_one(F.relu(x) if index else x, f"{block}/separable_conv{index}")
        return x

    def _separable_one(self, x: torch.Tensor, layer: str) -> torch.Tensor:
        each = self._weights[f"{layer}/depthwise_filter"].permute(2, 3, 0, 1)
        across = self._weights[f"{layer}/pointwise_filter"].permute(3, 2, 0, 1)
        return F.conv2d(F.conv2d(x, each, padding=1, groups=x.shape[1]), across, self._weights[f"{layer}/bias"])

    def _conv(self, x: torch.Tensor, layer: str, stride: int) -> torch.Tensor:
        filters = self._weights[f"{layer}/filters"].permute(3, 2, 0, 1)
        return F.conv2d(F.pad(x, same(x, filters.shape[-1], stride)), filters, self._weights[f"{layer}/bias"], stride)

    def _linear(self, x: torch.Tensor, layer: str) -> torch.Tensor:
        return x @ self._weights[f"{layer}/weights"] + self._weights[f"{layer}/bias"]


def same(x: torch.Tensor, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """TensorFlow's padding `same` of square planes, for `F.pad`: the odd one goes right and below."""
    side = x.shape[-1]
    missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return missing // 2, missing - missing // 2, missing // 2, missing - missing // 2


def square(picture: RGB, face: Face) -> RGB:
    """(SIDE_PX, SIDE_PX, 3) uint8 of the face's box within the picture, its shorter side padded with black."""
    left, top, right, bottom = (max(0, round(value)) for value in face.box)
    crop = picture[top : max(bottom, top + 1), left : max(right, left + 1)]
    height, width = crop.shape[:2]
    side = max(height, width)
    whole = np.zeros((side, side, 3), np.uint8)
    whole[(side - height) // 2 :, (side - width) // 2 :][:height, :width] = crop
    return np.asarray(cv2.resize(whole, (SIDE_PX, SIDE_PX)), np.uint8)


def unpacked(stored: bytes, manifest: list[dict]) -> dict[str, torch.Tensor]:
    """float32 tensors by name; `manifest` is TensorFlow.js's list of the tensors in `stored`."""
    found, at = {}, 0
    for tensor in manifest[0]["weights"]:
        count, scale = int(np.prod(tensor["shape"])), tensor.get("quantization")
        values = np.frombuffer(stored, np.uint8 if scale else "<f4", count, at).astype(np.float32)
        values = values * np.float32(scale["scale"]) + np.float32(scale["min"]) if scale else values
        found[tensor["name"]] = torch.from_numpy(values.reshape(tensor["shape"]))
        at += count if scale else 4 * count
    return found
