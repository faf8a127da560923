"""UNet latent diffusion with one CLIP text encoder: Stable Diffusion 1.x and the embedded portrait-tiny."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.encoders import CLIP_L, Tunable
from trainer.bases.stock import Family, Outline

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["conv1", "conv2", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TARGETS = {"attention": ATTENTION, "attention+conv": ATTENTION + CONVOLUTIONS}


def encode_text(pipeline: Any, text: str, device: torch.device) -> Conditioning:
    """(1, tokens, width) last hidden states."""
    return Conditioning(pipeline.encode_prompt(text, device, 1, False)[0])


def encode_tokens(encoders: Mapping[str, Any], text: Conditioning) -> Conditioning:
    """The same of an encoder that learns."""
    assert text.tokens is not None
    return replace(text, text=encoders["text_encoder"](text.tokens[:, 0]).last_hidden_state)


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The UNet's answer."""
    answer: Tensor = denoiser(noisy.contiguous(memory_format=torch.channels_last), times, text.text).sample
    return answer


def blank_words(config: Any, rows: int) -> Conditioning:
    """Texts of 77 tokens."""
    return Conditioning(torch.zeros(rows, 77, config.cross_attention_dim))


OUTLINE = Outline(
    config={"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768},
    latent=lambda config: int(config.in_channels),
    words=blank_words,
    encoders=123_000_000,
)
SD15 = Family(
    pipeline=StableDiffusionPipeline,
    denoiser="unet",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
    outline=OUTLINE,
    tunable=Tunable({"text_encoder": "tokenizer"}, encode_tokens, {"text_encoder": CLIP_L}),
    channels_last=True,
    options={"safety_checker": None, "requires_safety_checker": False},
    single_file=True,
)
# Small enough to be kept in fp32: its adapters are the same whatever the hardware computes in.
PORTRAIT_TINY = replace(SD15, prompt_set="attributes", half=False)
