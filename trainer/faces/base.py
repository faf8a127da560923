"""What a face engine must do, and the one place that knows which engines exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trainer.errors import UsageError
from trainer.records import RGB, Face, Floats

if TYPE_CHECKING:
    import torch

ENGINES = ("onnx", "dlib", "insightface")


class Detector(Protocol):
    """Finds faces.

    Attributes:
        sha256: of the model files, one after the other.
    """

    sha256: str

    def detect(self, rgb_u8: RGB) -> list[Face]:
        """Faces in a (height, width, 3) uint8 RGB picture, most confident first; empty when there is none."""
        ...


class Embedder(Protocol):
    """Turns a face into a unit vector whose cosine with another says how alike the two are.

    Attributes:
        name: engine and file, for lock and scorecard.
        sha256: of the model file.
    """

    name: str
    sha256: str

    def embed(self, rgb_u8: RGB, face: Face) -> Floats:
        """(d,) float32 vector of L2 norm 1."""
        ...


class DifferentiableEmbedder(Protocol):
    """An embedder that gradients pass through, so that a fit can learn by what it says. Such a one is no judge.

    Attributes:
        name, sha256: as of `Embedder`.
    """

    name: str
    sha256: str

    def to(self, device: torch.device) -> DifferentiableEmbedder:
        """Itself, with its weights on that device."""
        ...

    def embed(self, pixels: torch.Tensor, landmarks: Floats) -> torch.Tensor:
        """(d,) unit vector of the face with these (5, 2) landmarks in a (3, height, width) picture of 0 to 255."""
        ...


def get_detector(weights: Path) -> Detector:
    """The shipped detector with 5-point landmarks; `weights` is the folder of pinned model files."""
    from trainer.faces.onnx import OnnxDetector

    return OnnxDetector(weights)


def get_embedder(engine: str, weights: Path, pack: str | None = None, terms_accepted: bool = False) -> Embedder:
    """The embedder called `engine`; the last two are for insightface. Raises UsageError that lists the valid names."""
    if engine == "onnx":
        from trainer.faces.onnx import OnnxEmbedder

        return OnnxEmbedder(weights)
    if engine == "dlib":
        from trainer.faces.dlib import DlibEmbedder

        return DlibEmbedder(weights)
    if engine == "insightface":
        from trainer.faces.insightface import InsightFaceEmbedder

        return InsightFaceEmbedder(pack, terms_accepted)
    raise UsageError(f"no face engine called {engine!r}", f"use one of: {', '.join(ENGINES)}")


def get_differentiable(engine: str, weights: Path) -> DifferentiableEmbedder:
    """The engine's twin for gradients. Raises UsageError for one that has none."""
    if engine == "dlib":
        from trainer.faces.dlib_torch import TorchDlibEmbedder

        return TorchDlibEmbedder(weights)
    raise UsageError(f"gradients do not pass through face engine {engine!r}", "use dlib")


def cosine_matrix(a: Sequence[Floats] | Floats, b: Sequence[Floats] | Floats) -> Floats:
    """(len(a), len(b)) cosines, -1 to 1, of unit vectors."""
    left, right = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if len(left) == 0 or len(right) == 0:
        return np.zeros((len(left), len(right)), np.float32)
    product: Floats = (left @ right.T).astype(np.float32)
    return product
