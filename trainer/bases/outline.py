"""A base without its weights: its denoiser by shape alone, on which memory and arithmetic can be counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.bases.conditioning import Conditioning

LEVELS = 1000


@dataclass(frozen=True, slots=True)
class Outline:
    """What is published of a family's model, for those who have not brought it yet.

    Attributes:
        config: of the denoiser, as `from_config` reads it, with its `_class_name`.
        channels: (config) to the channels of a latent.
        words: (config) to one row that is as large as an encoded caption.
        encoders: parameters of all text encoders together.
        autoencoder: parameters of the VAE.
        latent_px: side of a latent in pixels.
    """

    config: Mapping[str, Any]
    channels: Callable[[Any], int]
    words: Callable[[Any], Conditioning]
    encoders: int
    autoencoder: int
    latent_px: int = 8
