"""The recognition model of an InsightFace pack (buffalo_l, antelopev2, or a folder of your own).

The library is MIT; its packs are for non-commercial research only, so each user must accept that once in the recipe.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import MissingPartError, UsageError
from trainer.faces.align import aligned_112
from trainer.records import RGB, Face, Floats

TERMS = "InsightFace's packs are for non-commercial research only"


class InsightFaceEmbedder:
    """512-D ArcFace embedder of a pack; input is the 112 px ArcFace crop of the detector's five landmarks.

    Args:
        pack: a folder of .onnx files, or the name of a pack to bring once into ~/.insightface.
        accepted: the user has accepted the packs' terms.

    Raises:
        UsageError: no pack is named, or its terms are not accepted.
        MissingPartError: insightface is not installed, the pack cannot be brought or holds no recognition model.
    """

    def __init__(self, pack: str | None, accepted: bool) -> None:
        if pack is None:
            raise UsageError("engine insightface needs a pack", "--set faces.insightface_pack=FOLDER, or a pack's name")
        if not accepted:
            raise UsageError(TERMS, "if that fits your use: --set faces.insightface_terms_accepted=true")
        self._model = _recognition_model(_pack_folder(pack))
        path = Path(self._model.model_file)
        self.name = f"insightface/{Path(pack).name}/{path.stem}"
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def embed(self, rgb_u8: RGB, face: Face) -> Floats:
        """(512,) unit vector."""
        bgr = np.ascontiguousarray(aligned_112(rgb_u8, face.landmarks)[:, :, ::-1])  # its own reader gives BGR
        vector: Floats = np.asarray(self._model.get_feat(bgr), np.float32).reshape(-1)
        return vector / np.float32(np.linalg.norm(vector))


def _pack_folder(pack: str) -> Path:
    if Path(pack).is_dir():
        return Path(pack)
    if "/" in pack or "\\" in pack or pack.startswith("."):
        raise MissingPartError(f"{pack}: no such folder", "set faces.insightface_pack to the pack's folder")
    storage = _library("insightface.utils.storage")
    try:
        return Path(storage.ensure_available("models", pack))
    except Exception as error:  # whatever its downloader raises, the user needs the same answer
        raise MissingPartError(
            f"InsightFace pack {pack} could not be brought: {error}",
            "bring it on a machine with a network and set faces.insightface_pack to its folder",
        ) from error


def _recognition_model(folder: Path) -> Any:
    zoo = _library("insightface.model_zoo")
    for path in sorted(folder.rglob("*.onnx")):
        model = zoo.get_model(str(path), providers=["CPUExecutionProvider"])
        if getattr(model, "taskname", "") == "recognition":
            return model
    raise MissingPartError(f"{folder} holds no recognition model", "use a pack such as buffalo_l")


def _library(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPartError("insightface is not installed", "pip install 'likeness-trainer[insightface]'") from None
