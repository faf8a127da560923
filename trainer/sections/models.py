"""The models of a run: the base, and who looks at faces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.sections.section import Section


class BaseModelSection(Section):
    """Which diffusion model is tuned."""

    name: Literal["portrait-tiny", "sd15", "sdxl", "sd3", "flux1", "flux2-klein", "z-image", "qwen-image"] = (
        "portrait-tiny"
    )
    """Base family. `portrait-tiny` is shipped; the others are loaded from `path`. `sd3` is 3 and 3.5."""
    path: str | None = None
    """Folder or hub name of diffusers files, or a .safetensors checkpoint (sd15, sdxl). None: the shipped files."""
    config: str | None = None
    """Folder or hub name of diffusers files that describe a .safetensors checkpoint. None: the hub's, by its kind."""
    revision: str | None = None
    """Hub revision (commit) to pin. None: the newest; the lock then records what came."""
    size_px: Annotated[int, Field(ge=64, le=2048)] | None = None
    """Side of the pictures, in pixels. None: what the base was made for. Time and memory grow with its square."""
    quantize: Literal["none", "int8", "nf4"] = "none"
    """Format of the frozen linear layers while fitting: as `fit.precision` has them; 8 bits (arXiv 2208.07339); 4 bits
    (arXiv 2305.14314). Needs bitsandbytes. The adapter is scored and exported on the base as it is."""


class FacesSection(Section):
    """Who looks at faces. The gate and the judge must be different models."""

    gate: Literal["dlib", "onnx", "insightface"] = "dlib"
    """Embedder for the checks, the wrong-person rejection and the choice of checkpoint."""
    judge: Literal["dlib", "onnx", "insightface"] = "onnx"
    """Embedder for the reported score, and for nothing else."""
    insightface_pack: str | None = None
    """Folder of an InsightFace pack, or the name of one to bring (buffalo_l). Only for the engine insightface."""
    insightface_terms_accepted: bool = False
    """You have read and accept that InsightFace's packs are for non-commercial research only."""
