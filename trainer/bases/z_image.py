"""Z-Image: one stream of picture and text tokens, with a language model (Qwen3) as the text encoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline

from trainer.bases.base import Tensor
from trainer.bases.conditioning import Conditioning
from trainer.bases.stock import Family, Outline
from trainer.bases.tokens import chat_tokens

ATTENTION = ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"]
FEED_FORWARD = ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
TARGETS = {"attention": ATTENTION, "attention+conv": ATTENTION + FEED_FORWARD}
TOKENS = 512  # most that the pipeline lets a text have
LEVELS = 1000


def encode_text(pipeline: Any, text: str, device: torch.device) -> Conditioning:
    """(1, 512, width) last but one hidden states, zeros after the text's own length."""
    (said,), _ = pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
    padded = torch.nn.functional.pad(said, (0, 0, 0, TOKENS - len(said)))[None]
    return Conditioning(padded, lengths=torch.tensor([len(said)], device=device))


def predict(denoiser: Any, config: Any, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
    """The velocity from picture to noise: the transformer answers the one back, and is told 1 for no noise."""
    assert text.lengths is not None
    said = [row[:length] for row, length in zip(text.text, text.lengths.tolist(), strict=True)]
    answers = denoiser(list(noisy.unsqueeze(2).unbind()), 1 - times / LEVELS, said).sample
    return -torch.stack(answers).squeeze(2)


def blank_words(config: Any, rows: int) -> Conditioning:
    """Texts of 64 tokens: a caption and the template around it."""
    return Conditioning(torch.zeros(rows, TOKENS, config.cap_feat_dim), lengths=torch.tensor([64] * rows))


OUTLINE = Outline(
    config={"_class_name": "ZImageTransformer2DModel"},  # the class's defaults are the published model's
    latent=lambda config: int(config.in_channels),
    words=blank_words,
    encoders=4_022_000_000,
)
Z_IMAGE = Family(
    pipeline=ZImagePipeline,
    denoiser="transformer",
    encode_text=encode_text,
    predict=predict,
    targets=TARGETS,
    outline=OUTLINE,
    native_px=1024,
    tokens=chat_tokens,
)
