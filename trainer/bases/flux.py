"""FLUX.1: a transformer on packed latents, one CLIP vector and T5, with the guidance scale as an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import FluxPipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.encoders import CLIP_L, Tunable
from trainer.bases.sd3 import ATTENTION, FEED_FORWARD
from trainer.bases.stock import Family, Outline
from trainer.bases.tokens import flux_tokens

# The single blocks have their feed-forward half in `proj_mlp`; their `proj_out` shares its name with the last layer.
TARGETS = {"attention": ATTENTION, "attention+conv": [*ATTENTION, *FEED_FORWARD, "proj_mlp"]}
GUIDANCE = 1.0  # told while training: the plain answer, of which a larger scale is an exaggeration
LEVELS = 1000  # the pipeline tells the transformer times of 0 to 1


def encode_text(pipeline: Any, text: str, device: torch.device) -> Conditioning:
    """(1, tokens, width) of T5, and CLIP's pooled vector."""
    embeds, pooled, _ = pipeline.encode_prompt(text, None, device=device)
    return Conditioning(embeds, pooled)


def encode_tokens(encoders: Mapping[str, Any], text: Conditioning) -> Conditioning:
    """CLIP's pooled vector anew of an encoder that learns, and T5's states as they were."""
    assert text.tokens is not None
    return replace(text, pooled=encoders["text_encoder"](text.tokens[:, 0]).pooler_output)


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The transformer's velocity from picture to noise."""
    height, width = noisy.shape[-2:]
    guidance = torch.full((len(noisy),), GUIDANCE, device=noisy.device) if config.guidance_embeds else None
    answer: Tensor = denoiser(
        hidden_states=packed(noisy),
        timestep=times / LEVELS,
        guidance=guidance,
        pooled_projections=text.pooled,
        encoder_hidden_states=text.text,
        txt_ids=torch.zeros(text.text.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
        img_ids=places(height // 2, width // 2).to(noisy),
    ).sample
    return unpacked(answer, height, width)


def packed(latents: Tensor) -> Tensor:
    """(n, c, h, w) to (n, h/2 w/2, 4 c): each token holds a square of two by two."""
    n, c, h, w = latents.shape
    return latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, (h // 2) * (w // 2), c * 4)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`, for latents of this height and width."""
    n, _, c = tokens.shape
    squares = tokens.view(n, height // 2, width // 2, c // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(n, c // 4, height, width)


def places(rows: int, columns: int) -> Tensor:
    """(rows columns, 3) where each token lies: 0, its row, its column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).view(-1, 3)


def blank_words(config: Any, rows: int) -> Conditioning:
    """Texts of 512 tokens of T5, and CLIP's pooled vector."""
    return Conditioning(
        torch.zeros(rows, 512, config.joint_attention_dim), torch.zeros(rows, config.pooled_projection_dim)
    )


OUTLINE = Outline(
    config={"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},  # the rest are the class's defaults
    latent=lambda config: config.in_channels // 4,
    words=blank_words,
    encoders=4_885_000_000,
)
FLUX1 = Family(
    pipeline=FluxPipeline,
    denoiser="transformer",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
    outline=OUTLINE,
    tunable=Tunable({"text_encoder": "tokenizer"}, encode_tokens, {"text_encoder": CLIP_L}),
    tokens=flux_tokens,
)
