"""Stable Diffusion XL (arXiv 2307.01952): a larger UNet, two CLIP text encoders, and the picture's size as an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.encoders import CLIP_BIGG, CLIP_L, Tunable, two_projected
from trainer.bases.latent_unet import TARGETS
from trainer.bases.stock import Family, Outline

LATENT_PX = 8  # a latent's side in pixels


def encode_text(pipeline: Any, text: str, device: torch.device) -> Conditioning:
    """(1, tokens, width) of both encoders, and the second's pooled vector; zeros where guidance has zeros."""
    embeds, _, pooled, _ = pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
    if not text and pipeline.config.force_zeros_for_empty_prompt:
        return Conditioning(torch.zeros_like(embeds), torch.zeros_like(pooled))
    return Conditioning(embeds, pooled)


def encode_tokens(encoders: Mapping[str, Any], text: Conditioning) -> Conditioning:
    """The same of encoders that learn; what is zeros stays zeros."""
    assert text.tokens is not None
    assert text.pooled is not None
    embeds, (_, second) = two_projected(encoders, text.tokens)
    said = text.pooled.any(-1, keepdim=True)
    return replace(text, text=embeds * said[..., None], pooled=second.text_embeds * said)


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The UNet's answer for whole pictures of this very size (section 2.2: original size, crop corner, target size)."""
    height, width = (LATENT_PX * side for side in noisy.shape[-2:])
    size = torch.tensor([height, width, 0, 0, height, width], device=noisy.device, dtype=noisy.dtype)
    answer: Tensor = denoiser(
        noisy.contiguous(memory_format=torch.channels_last),
        times,
        text.text,
        added_cond_kwargs={"text_embeds": text.pooled, "time_ids": size.expand(len(noisy), -1)},
    ).sample
    return answer


def blank_words(config: Any, rows: int) -> Conditioning:
    """Texts of 77 tokens; what the six numbers of the size leave is the pooled vector's."""
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return Conditioning(torch.zeros(rows, 77, config.cross_attention_dim), torch.zeros(rows, pooled))


OUTLINE = Outline(
    config={
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    latent=lambda config: int(config.in_channels),
    words=blank_words,
    encoders=818_000_000,
)
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
# The VAE stays in fp32 whatever the precision (`load_pipeline`): this one's activations overflow fp16.
SDXL = Family(
    pipeline=StableDiffusionXLPipeline,
    denoiser="unet",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
    outline=OUTLINE,
    tunable=Tunable(TOKENIZERS, encode_tokens, {"text_encoder": CLIP_L, "text_encoder_2": CLIP_BIGG}),
    channels_last=True,
    options={"add_watermarker": False},
    single_file=True,
)
