"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a transformer on text and picture, two CLIP encoders and T5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.encoders import CLIP_BIGG, CLIP_L, Tunable, two_projected
from trainer.bases.stock import Family, Outline
from trainer.bases.tokens import sd3_tokens

ATTENTION = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
]  # fmt: skip
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
TARGETS = {"attention": ATTENTION, "attention+conv": ATTENTION + FEED_FORWARD}


def encode_text(pipeline: Any, text: str, device: torch.device) -> Conditioning:
    """(1, tokens, width) of CLIP, then of T5 (zeros in a folder without it), and both CLIP pooled vectors in one."""
    embeds, _, pooled, _ = pipeline.encode_prompt(text, None, None, device=device, do_classifier_free_guidance=False)
    return Conditioning(embeds, pooled)


def encode_tokens(encoders: Mapping[str, Any], text: Conditioning) -> Conditioning:
    """CLIP's part anew of encoders that learn, and T5's as it was."""
    assert text.tokens is not None
    embeds, answers = two_projected(encoders, text.tokens)
    widened = torch.nn.functional.pad(embeds, (0, text.text.shape[-1] - embeds.shape[-1]))
    third = text.text[:, embeds.shape[1] :].to(embeds)
    pooled = torch.cat([answer.text_embeds for answer in answers], -1)
    return replace(text, text=torch.cat([widened, third], 1), pooled=pooled)


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The transformer's velocity from picture to noise."""
    answer: Tensor = denoiser(
        hidden_states=noisy, encoder_hidden_states=text.text, pooled_projections=text.pooled, timestep=times
    ).sample
    return answer


def blank_words(config: Any, rows: int) -> Conditioning:
    """Texts of CLIP's 77 and T5's 256 tokens, and their pooled vectors."""
    return Conditioning(
        torch.zeros(rows, 333, config.joint_attention_dim), torch.zeros(rows, config.pooled_projection_dim)
    )


OUTLINE = Outline(
    config={  # of 3.5 medium
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13)),
    },
    latent=lambda config: int(config.in_channels),
    words=blank_words,
    encoders=5_580_000_000,
)
PROJECTED = {"architectures": ["CLIPTextModelWithProjection"]}
SD3 = Family(
    pipeline=StableDiffusion3Pipeline,
    denoiser="transformer",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
    outline=OUTLINE,
    tunable=Tunable(
        {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
        encode_tokens,
        {"text_encoder": CLIP_L | PROJECTED, "text_encoder_2": CLIP_BIGG},
    ),
    tokens=sd3_tokens,
)
