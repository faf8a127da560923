"""dlib's ResNet embedder in torch, for gradients: the network of `trainer.faces.dlib`, from the same file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from trainer.faces.align import dlib_chip_template
from trainer.faces.dlib import LEVELS, MODEL, PIXEL_MEAN, SIDE_PX, convolutions, dense, dlib_mean
from trainer.faces.warp import warped_to
from trainer.records import Floats
from trainer.weights import WEIGHTS, verified

Tensor = torch.Tensor


class DlibNetwork(torch.nn.Module):
    """(n, 3, 150, 150) chips of 0 to 255 to (n, 128) descriptors; its own weights learn nothing."""

    def __init__(self, dat: bytes) -> None:
        super().__init__()
        found = [(torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in convolutions(dat)]
        self.weights = torch.nn.ParameterList([weight for weight, _ in found])
        self.biases = torch.nn.ParameterList([bias for _, bias in found])
        self.register_buffer("dense", torch.from_numpy(dense(dat).copy()))
        self.register_buffer("pixel_mean", torch.from_numpy(PIXEL_MEAN).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, chips: Tensor) -> Tensor:
        """As `trainer.faces.dlib.network`, layer by layer."""
        layers = iter(zip(self.weights, self.biases, strict=True))
        x = _convolved((chips - self.get_buffer("pixel_mean")) / 256, next(layers), 2).relu()
        x = functional.max_pool2d(x, 3, 2)
        for level, (_, blocks) in enumerate(LEVELS):
            for block in range(blocks):
                halve = level > 0 and block == 0
                inner = _convolved(x, next(layers), 2 if halve else 1).relu()
                inner = _convolved(inner, next(layers), 1)
                x = _summed(functional.avg_pool2d(x, 2) if halve else x, inner).relu()
        descriptors: Tensor = x.mean((2, 3)) @ self.get_buffer("dense")
        return descriptors


def _convolved(x: Tensor, layer: tuple[Tensor, Tensor], stride: int) -> Tensor:
    weight, bias = layer
    return functional.conv2d(x, weight, bias, stride, 0 if stride > 1 else weight.shape[2] // 2)


def _summed(x: Tensor, inner: Tensor) -> Tensor:
    """Their sum; what is narrower or smaller than the other is filled with zeros."""
    channels, side = max(x.shape[1], inner.shape[1]), max(x.shape[2], inner.shape[2])
    return _filled(x, channels, side) + _filled(inner, channels, side)


def _filled(x: Tensor, channels: int, side: int) -> Tensor:
    missing = side - x.shape[2]
    return functional.pad(x, (0, missing, 0, missing, 0, channels - x.shape[1]))


class TorchDlibEmbedder:
    """What `trainer.faces.dlib.DlibEmbedder` says of a picture, to `trainer.faces.base.DifferentiableEmbedder`."""

    def __init__(self, weights: Path) -> None:
        self._net = DlibNetwork(verified(MODEL, weights).read_bytes()).eval()
        self._mean, self._template = torch.from_numpy(dlib_mean()), dlib_chip_template()
        self.name = "dlib/resnet_v1"
        self.sha256 = WEIGHTS[MODEL].sha256

    def to(self, device: torch.device) -> TorchDlibEmbedder:
        """Itself, with its weights on that device."""
        self._net.to(device)
        self._mean = self._mean.to(device)
        return self

    def embed(self, pixels: Tensor, landmarks: Floats) -> Tensor:
        """(128,) unit vector, centred."""
        chip = warped_to(pixels, landmarks, self._template, SIDE_PX)
        vector = functional.normalize(self._net(chip[None])[0], dim=0) - self._mean
        return functional.normalize(vector, dim=0)
