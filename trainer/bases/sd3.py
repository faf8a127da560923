"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a transformer on text and picture, two CLIP encoders and T5."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.stock import Family

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


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The transformer's velocity from picture to noise."""
    answer: Tensor = denoiser(
        hidden_states=noisy, encoder_hidden_states=text.text, pooled_projections=text.pooled, timestep=times
    ).sample
    return answer


SD3 = Family(
    pipeline=StableDiffusion3Pipeline,
    denoiser="transformer",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
)
