"""CLIP's opinion of whether a picture shows what was asked, for prompts that the attribute probe has no words for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.bases.base import best_device
from trainer.bases.files import folder_sha256
from trainer.errors import MissingPartError
from trainer.records import RGB

WEIGHT = 2.5
BATCH = 16


class ClipScorer:
    """A CLIP model in memory.

    Attributes:
        name: `clip`, its folder's or hub name, and the start of the hash of its files, or of the hub's commit.
    """

    def __init__(self, where: str) -> None:
        """Load it from a folder or hub name of transformers' files; safetensors only.

        Raises MissingPartError where there is none.
        """
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
        from transformers.utils import logging

        said: Any = logging
        said.disable_progress_bar()  # our own progress says what is going on
        try:
            model: Any = CLIPModel.from_pretrained(where, use_safetensors=True)
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(where)
            self._pixels: Any = CLIPImageProcessorPil.from_pretrained(where)
        except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            hint = "set evaluate.clip to a folder or hub name of a CLIP model with model.safetensors, or to null"
            raise MissingPartError(f"CLIP model {where} cannot be loaded: {first}", hint) from None
        self._device = best_device()
        self._model: Any = model.eval().to(self._device)
        folder = Path(where)
        digest = folder_sha256(folder) if folder.is_dir() else str(model.config._commit_hash)
        self.name = f"clip {folder.name if folder.is_dir() else where} {digest[:12]}"

    def scores(self, texts: Sequence[str], pictures: Sequence[Sequence[RGB]]) -> list[float | None]:
        """For each text the mean CLIPScore, 0 to 2.5, of its pictures.

        2.5 max(cos(picture, text), 0): Hessel et al., CLIPScore, EMNLP 2021 (arXiv 2104.08718), section 3.
        """
        asked = self._unit([self._text(text) for text in texts])
        found: list[float | None] = []
        for text, row in zip(asked, pictures, strict=True):
            shown = self._unit([self._picture(row[start : start + BATCH]) for start in range(0, len(row), BATCH)])
            found.append(float(WEIGHT * np.maximum(shown @ text, 0.0).mean()))
        return found

    @torch.inference_mode()
    def _text(self, text: str) -> torch.Tensor:
        room = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], truncation=True, max_length=room, return_tensors="pt").to(self._device)
        vector: torch.Tensor = self._model.get_text_features(**tokens).pooler_output
        return vector

    @torch.inference_mode()
    def _picture(self, pictures: Sequence[RGB]) -> torch.Tensor:
        pixels = self._pixels(list(pictures), return_tensors="pt").to(self._device)
        vectors: torch.Tensor = self._model.get_image_features(**pixels).pooler_output
        return vectors

    @staticmethod
    def _unit(parts: Sequence[torch.Tensor]) -> Any:
        """(n, d) float32 rows of L2 norm 1."""
        rows = torch.cat(list(parts)).float()
        return (rows / rows.norm(dim=1, keepdim=True)).cpu().numpy()
