"""What a face engine must do, and the one place that knows which engines exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from trainer.errors import UsageError
from trainer.records import RGB, Face, Floats

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


def cosine_matrix(a: Sequence[Floats] | Floats, b: Sequence[Floats] | Floats) -> Floats:
    """(len(a), len(b)) cosines, -1 to 1, of unit vectors."""
    left, right = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if len(left) == 0 or len(right) == 0:
        return np.zeros((len(left), len(right)), np.float32)
    product: Floats = (left @ right.T).astype(np.float32)
    return product
