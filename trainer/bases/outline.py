"""A base without its weights: its denoiser by shape alone, on which memory and arithmetic can be counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import try_to_load_from_cache
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.bases.base import Tensor, family_of
from trainer.bases.conditioning import Conditioning
from trainer.bases.files import SINGLE, UNREADABLE
from trainer.bases.schedule import FLOW, Schedule
from trainer.bases.stock import AT_ONCE_PX, PATCH, Family, answer_of, held_dtype
from trainer.errors import MissingPartError, UsageError

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
