"""What fit needs of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What fit needs of the recipe, flat; meanings, units and defaults as in `trainer.sections.FitSection`."""

    trigger: str
    steps: int
    batch_size: int
    checkpoint_every: int
    rank: int
    alpha: float
    targets: str | Sequence[str]
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    min_snr_gamma: float | None
    face_weight: float
    caption_dropout: float
    wordings: int
    word_dropout: float
    prior_batch: int
    prior_rows: int
    prior_pictures: int
    mirror: bool
    max_grad_norm: float
    seed: int
    noise_levels: str = "uniform"
    accumulation: int = 1
    adapter: str = "lora"
    init: str = "gaussian"
    dropout: float = 0.0
    rank_pattern: Mapping[str, int] | None = None
    warm_start: str | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    lora_plus_ratio: float | None = None
    ema_decay: float | None = None
    weighting: str = "uniform"
    gradient_checkpointing: bool = False
    offload: bool = False
    text_encoder_rate: float | None = None
    new_tokens: int = 0
    token_rate: float = 1.0
    token_init: str = "person"
    token_until: float = 1.0
    stop_after: int | None = None
    trackers: Sequence[str] = ()
    identity_weight: float | None = None
    identity_signal: float = 0.5
