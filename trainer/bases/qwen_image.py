"""Qwen-Image (arXiv 2508.02324): a transformer on text and packed latents of a video VAE, Qwen2.5-VL for the text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import QwenImagePipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.flux import packed, unpacked
from trainer.bases.sd3 import ATTENTION
from trainer.bases.stock import Family, Outline, channels
from trainer.bases.tokens import qwen_image_tokens

FEED_FORWARD = ["img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"]
TARGETS = {"attention": ATTENTION, "attention+conv": ATTENTION + FEED_FORWARD}
TOKENS = 512  # most that the pipeline lets a text have
LEVELS = 1000  # the pipeline tells the transformer times of 0 to 1
NOTHING = " "  # how its makers write an empty prompt


def encode_text(pipeline: Any, text: str, device: torch.device) -> Conditioning:
    """(1, 512, width) last hidden states, zeros after the text's own length."""
    said, _ = pipeline.encode_prompt(text or NOTHING, device, max_sequence_length=TOKENS)
    padded = torch.nn.functional.pad(said, (0, 0, 0, TOKENS - said.shape[1]))
    return Conditioning(padded, lengths=torch.tensor([said.shape[1]], device=device))


def encode_pixels(vae: Any, pixels: Tensor) -> Tensor:
    """(n, 16, h, w): the one frame's latents, normal by the VAE's own means and deviations."""
    latents: Tensor = vae.encode(pixels.unsqueeze(2)).latent_dist.mode().squeeze(2)
    return (latents - channels(vae.config.latents_mean, latents)) / channels(vae.config.latents_std, latents)


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """The one frame's pixels; the VAE itself keeps them between -1 and 1."""
    latents = latents * channels(vae.config.latents_std, latents) + channels(vae.config.latents_mean, latents)
    pixels: Tensor = vae.decode(latents.unsqueeze(2)).sample.squeeze(2)
    return pixels


def guide(guidance: float, count: int) -> dict[str, Any]:
    """True guidance, away from the empty prompt."""
    return {"true_cfg_scale": guidance, "negative_prompt": [NOTHING] * count}


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The transformer's velocity from picture to noise."""
    assert text.lengths is not None
    height, width = noisy.shape[-2:]
    longest = max(text.lengths.tolist())
    lengths = text.lengths.to(noisy.device)
    answer: Tensor = denoiser(
        hidden_states=packed(noisy),
        timestep=times / LEVELS,
        encoder_hidden_states=text.text[:, :longest],
        encoder_hidden_states_mask=torch.arange(longest, device=noisy.device)[None] < lengths[:, None],
        img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
    ).sample
    return unpacked(answer, height, width)


def blank_words(config: Any, rows: int) -> Conditioning:
    """Texts of 64 tokens."""
    return Conditioning(torch.zeros(rows, TOKENS, config.joint_attention_dim), lengths=torch.tensor([64] * rows))


OUTLINE = Outline(
    config={"_class_name": "QwenImageTransformer2DModel"},  # the class's defaults are the published model's
    latent=lambda config: config.in_channels // 4,
    words=blank_words,
    encoders=8_292_000_000,
    autoencoder=127_000_000,
)
QWEN_IMAGE = Family(
    pipeline=QwenImagePipeline,
    denoiser="transformer",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
    outline=OUTLINE,
    encode_pixels=encode_pixels,
    decode_latents=decode_latents,
    guide=guide,
    tokens=qwen_image_tokens,
)
