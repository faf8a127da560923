"""FLUX.2 klein: a transformer on squares of latents, with a language model (Qwen3) as the text encoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2KleinPipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.sd3 import ATTENTION
from trainer.bases.stock import Family, Outline
from trainer.bases.tokens import chat_tokens

# A single block has one layer for queries, keys, values and its feed-forward half.
SINGLE = "attn.to_qkv_mlp_proj"
FEED_FORWARD = ["ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"]
TARGETS = {"attention": [*ATTENTION, SINGLE], "attention+conv": [*ATTENTION, SINGLE, *FEED_FORWARD]}
LEVELS = 1000  # the pipeline tells the transformer times of 0 to 1


def encode_text(pipeline: Any, text: str, device: torch.device) -> Conditioning:
    """(1, 512, width) of three hidden states side by side."""
    return Conditioning(pipeline.encode_prompt([text], device)[0])


def encode_pixels(vae: Any, pixels: Tensor) -> Tensor:
    """(n, 4 c, h/2, w/2): squares of two by two latents, made normal by what the VAE has counted."""
    latents: Tensor = vae.encode(pixels).latent_dist.mode()
    n, c, h, w = latents.shape
    squares = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
    mean, deviation = counted(vae)
    return (squares - mean) / deviation


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Pixels of the squares taken apart again."""
    n, c, h, w = latents.shape
    mean, deviation = counted(vae)
    squares = (latents * deviation + mean).view(n, c // 4, 2, 2, h, w)
    pixels: Tensor = vae.decode(squares.permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)).sample
    return pixels


def counted(vae: Any) -> tuple[Tensor, Tensor]:
    """(1, 4 c, 1, 1) mean and deviation of the squares."""
    mean: Tensor = vae.bn.running_mean.view(1, -1, 1, 1)
    variance: Tensor = vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps
    return mean, variance.sqrt()


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The transformer's velocity from picture to noise."""
    height, width = noisy.shape[-2:]
    answer: Tensor = denoiser(
        hidden_states=noisy.flatten(2).transpose(1, 2),
        timestep=times / LEVELS,
        encoder_hidden_states=text.text,
        txt_ids=places(1, 1, text.text.shape[1]).to(noisy.device),
        img_ids=places(height, width, 1).to(noisy.device),
    ).sample
    return answer.transpose(1, 2).reshape(noisy.shape)


def places(rows: int, columns: int, words: int) -> Tensor:
    """(rows columns words, 4) where each token lies: picture 0, its row, its column, its place in the text."""
    return torch.cartesian_prod(*(torch.arange(count) for count in (1, rows, columns, words)))


def blank_words(config: Any, rows: int) -> Conditioning:
    """Texts of 512 tokens."""
    return Conditioning(torch.zeros(rows, 512, config.joint_attention_dim))


OUTLINE = Outline(
    config={  # of klein 4B
        "_class_name": "Flux2Transformer2DModel",
        "num_layers": 5,
        "num_single_layers": 20,
        "num_attention_heads": 24,
        "joint_attention_dim": 7680,
        "guidance_embeds": False,
    },
    latent=lambda config: int(config.in_channels),
    words=blank_words,
    encoders=4_022_000_000,
    latent_px=16,
)
FLUX2_KLEIN = Family(
    pipeline=Flux2KleinPipeline,
    denoiser="transformer",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
    outline=OUTLINE,
    encode_pixels=encode_pixels,
    decode_latents=decode_latents,
    tokens=chat_tokens,
)
