"""dlib's ResNet embedder (128-D, public domain), made by other people on other data than the ONNX one.

The file is dlib's; the arithmetic is onnxruntime's. dlib's own wheel takes 60 ms of a core for a face where this takes
5, and no other thread may work meanwhile (`scripts/bench/prepare_speed.py` has both); the two agree to 1e-5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from trainer.faces.align import aligned_to, dlib_chip_template
from trainer.faces.onnx import open_session
from trainer.records import RGB, Face, Floats
from trainer.weights import WEIGHTS, verified

MODEL = "dlib_face_recognition_resnet_model_v1.dat"
MEAN = Path(__file__).resolve().parent / "dlib_mean.safetensors"
SIDE_PX = 150
PIXEL_MEAN = np.array([122.782, 117.001, 104.298], np.float32)  # dlib, input_rgb_image_sized
# Channels and residual blocks of each level, from the input on (dlib, dnn_face_recognition_ex.cpp); every level but
# the first starts with a block that halves the picture.
LEVELS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))


class DlibEmbedder:
    """Input: the 150 px chip built from the detector's five landmarks.

    Its raw descriptors lie close together (mean cosine 0.84 of different people against 0.95 of the same, on 60 LFW
    people by `scripts/bench/face_engines.py`), so the mean of many faces (`dlib_mean.safetensors`, made by
    `scripts/base/face_tables.py`) is subtracted before a cosine is read as a likeness.
    """

    def __init__(self, weights: Path) -> None:
        self._net = open_session(network(verified(MODEL, weights).read_bytes()))
        self._mean: Floats | None = None
        self.name = "dlib/resnet_v1"
        self.sha256 = WEIGHTS[MODEL].sha256

    def embed(self, rgb_u8: RGB, face: Face) -> Floats:
        """(128,) unit vector, centred."""
        if self._mean is None:
            self._mean = dlib_mean()
        vector: Floats = self.embed_raw(rgb_u8, face) - self._mean
        return vector / np.float32(np.linalg.norm(vector))

    def embed_raw(self, rgb_u8: RGB, face: Face) -> Floats:
        """(128,) unit vector as dlib gives it."""
        vector = self.descriptor(aligned_to(rgb_u8, face.landmarks, dlib_chip_template(), SIDE_PX))
        return vector / np.float32(np.linalg.norm(vector))

    def descriptor(self, chip_u8: RGB) -> Floats:
        """(128,) float32, dlib's own `compute_face_descriptor` of a (150, 150, 3) uint8 chip."""
        pixels = ((chip_u8 - PIXEL_MEAN) / np.float32(256)).transpose(2, 0, 1)[None]
        (output,) = self._net.run(None, {"chip": pixels})
        return np.asarray(output, np.float32).reshape(-1)


def network(dat: bytes) -> bytes:
    """dlib's `anet_type` as an ONNX model: (1, 3, 150, 150) float32 in, (1, 128) out."""
    graph = _Graph(iter(convolutions(dat)))
    out, side = graph.convolve("chip", SIDE_PX, stride=2)
    out, side = graph.node("MaxPool", [out], kernel_shape=[3, 3], strides=[2, 2]), (side - 3) // 2 + 1
    channels = LEVELS[0][0]
    for level, (wider, blocks) in enumerate(LEVELS):
        for block in range(blocks):
            halve = level > 0 and block == 0
            out, side = graph.residual(out, (channels, side), wider, halve)
            channels = wider
    out = graph.node("Flatten", [graph.node("GlobalAveragePool", [out])])
    graph.node("MatMul", [out, graph.constant(dense(dat))], name="descriptor")
    return graph.model()


def dlib_mean() -> Floats:
    """(128,) mean of many people's unit descriptors: see `DlibEmbedder`."""
    mean: Floats = load_file(MEAN)["mean"]
    return mean


class _Graph:
    """ONNX nodes in the making; takes the convolutions in the file's order, which is that of the network."""

    def __init__(self, convolutions: Iterator[tuple[Floats, Floats]]) -> None:
        self._convolutions = convolutions
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        name = name or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values: Floats | npt.NDArray[np.int64]) -> str:
        self._constants.append(numpy_helper.from_array(values, f"c{len(self._constants)}"))
        return self._constants[-1].name

    def convolve(self, x: str, side: int, stride: int, rectified: bool = True) -> tuple[str, int]:
        """The next convolution, with a border of zeros where it does not halve, and the side that comes out."""
        weight, bias = next(self._convolutions)
        pad = 0 if stride > 1 else weight.shape[2] // 2
        inputs = [x, self.constant(weight), self.constant(bias)]
        out = self.node("Conv", inputs, strides=[stride] * 2, pads=[pad] * 4)
        return self.node("Relu", [out]) if rectified else out, (side + 2 * pad - weight.shape[2]) // stride + 1

    def residual(self, x: str, shape: tuple[int, int], wider: int, halve: bool) -> tuple[str, int]:
        """dlib's `ares` or `ares_down`; what is narrower or smaller than the other summand is filled with zeros."""
        channels, side = shape
        inner, inner_side = self.convolve(x, side, 2 if halve else 1)
        inner, inner_side = self.convolve(inner, inner_side, 1, rectified=False)
        if halve:
            x, side = self.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2]), side // 2
        larger = max(side, inner_side)
        summed = [self._filled(x, wider - channels, larger - side), self._filled(inner, 0, larger - inner_side)]
        return self.node("Relu", [self.node("Add", summed)]), larger

    def _filled(self, x: str, channels: int, pixels: int) -> str:
        if not channels and not pixels:
            return x
        return self.node("Pad", [x, self.constant(np.array([0, 0, 0, 0, 0, channels, pixels, pixels], np.int64))])

    def model(self) -> bytes:
        chip = helper.make_tensor_value_info("chip", TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX])
        out = helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, [1, 128])
        graph = helper.make_graph(self._nodes, "dlib_resnet_v1", [chip], [out], self._constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(made.SerializeToString())


def convolutions(dat: bytes) -> list[tuple[Floats, Floats]]:
    """Weights (out, in, n, n) and biases (out,), each with the `affine` layer that follows it multiplied in."""
    tensors = [_tensor(dat, found.end()) for found in re.finditer(rb"\x01(?:\x05con_4|\x07affine_)", dat)]
    layers = []
    for index, (both, affine) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
        out, size = len(affine) // 2, 3 if index else 7
        weight, bias = both[:-out].reshape(out, -1, size, size), both[-out:]
        gamma, beta = affine[:out], affine[out:]
        layers.append((weight * gamma[:, None, None, None], bias * gamma + beta))
    return layers


def dense(dat: bytes) -> Floats:
    """(256, 128) matrix of the last layer."""
    start = dat.index(b"\x01\x04fc_2") + 6
    _, start = _integers(dat, start, 2)  # its outputs and inputs
    return _tensor(dat, start).reshape(256, 128)


def _tensor(dat: bytes, start: int) -> Floats:
    """All numbers of dlib's serialized tensor: version, four sizes, little-endian floats (dlib, cuda/tensor.cpp)."""
    (_, *sizes), start = _integers(dat, start, 5)
    return np.frombuffer(dat, "<f4", int(np.prod(sizes)), start)


def _integers(dat: bytes, start: int, count: int) -> tuple[list[int], int]:
    """dlib's packed integers: a byte with the length, then so many bytes, the lowest first (dlib, serialize.h)."""
    values = []
    for _ in range(count):
        after = start + 1 + dat[start]
        values.append(int.from_bytes(dat[start + 1 : after], "little"))
        start = after
    return values, start
