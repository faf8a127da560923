"""dlib's ResNet embedder (128-D, public domain), made by other people on other data than the ONNX one."""

from __future__ import annotations

from pathlib import Path

import dlib
import numpy as np
from safetensors.numpy import load_file

from trainer.faces.align import aligned_to, dlib_chip_template
from trainer.records import RGB, Face, Floats
from trainer.weights import WEIGHTS, verified

MODEL = "dlib_face_recognition_resnet_model_v1.dat"
MEAN = Path(__file__).resolve().parent / "dlib_mean.safetensors"


class DlibEmbedder:
    """Input: the 150 px chip built from the detector's five landmarks.

    Its raw descriptors lie close together (mean cosine 0.84 of different people against 0.95 of the same, on 60 LFW
    people by `scripts/bench/face_engines.py`), so the mean of many faces (`dlib_mean.safetensors`, made by
    `scripts/base/face_tables.py`) is subtracted before a cosine is read as a likeness.
    """

    def __init__(self, weights: Path) -> None:
        self._net = dlib.face_recognition_model_v1(str(verified(MODEL, weights)))
        self._mean: Floats | None = None
        self.name = "dlib/resnet_v1"
        self.sha256 = WEIGHTS[MODEL].sha256

    def embed(self, rgb_u8: RGB, face: Face) -> Floats:
        """(128,) unit vector, centred."""
        if self._mean is None:
            self._mean = load_file(MEAN)["mean"]
        vector: Floats = self.embed_raw(rgb_u8, face) - self._mean
        return vector / np.float32(np.linalg.norm(vector))

    def embed_raw(self, rgb_u8: RGB, face: Face) -> Floats:
        """(128,) unit vector as dlib gives it."""
        chip = aligned_to(rgb_u8, face.landmarks, dlib_chip_template(), 150)
        vector = np.asarray(self._net.compute_face_descriptor(np.ascontiguousarray(chip)), np.float32)
        return vector / np.float32(np.linalg.norm(vector))
