"""CLIP text encoders that learn: a text's tokens are kept beside what was cached of it, and encoded anew each time.

What other encoders make of a text (T5) stays as it was cached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.bases.conditioning import Conditioning

Tensor = torch.Tensor
# Attention alone, as in diffusers' train_dreambooth_lora.py; fc1 and fc2 feed forward.
ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
TARGETS = {"attention": ATTENTION, "attention+conv": [*ATTENTION, "fc1", "fc2"]}
CLIP_L = {
    "architectures": ["CLIPTextModel"], "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768, "max_position_embeddings": 77,
}  # fmt: skip
CLIP_BIGG = CLIP_L | {
    "architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280, "intermediate_size": 5120,
    "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tunable:
    """The text encoders of a family that can learn.

    Attributes:
        tokenizers: the encoders' names in the family's pipeline, and those of their tokenizers, in the order in which
            `Conditioning.tokens` has them.
        encode: (encoders by name, cached texts with tokens) to the texts as the encoders now read them.
        outlines: published configurations of the encoders, as transformers reads them.
    """

    tokenizers: Mapping[str, str]
    encode: Callable[[Mapping[str, Any], Conditioning], Conditioning]
    outlines: Mapping[str, Mapping[str, Any]]


def tokens_of(tunable: Tunable, pipeline: Any, texts: Sequence[str]) -> Tensor:
    """(n, encoders, tokens) int64, cut and padded as the family's pipeline does it."""
    read = []
    for name in tunable.tokenizers.values():
        tokenizer = getattr(pipeline, name)
        options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
        read.append(tokenizer(spelled_out(pipeline, tokenizer, texts), return_tensors="pt", **options).input_ids)
    return torch.stack(read, 1)


def spelled_out(pipeline: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The texts as the pipeline hands them to the tokenizer: a learned word's vectors each by its own token's name."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return convert(list(texts), tokenizer) if convert else list(texts)


def text_targets(targets: str | Sequence[str]) -> list[str]:
    """Module name endings in a CLIP text encoder, for the kind of layers adapted in the denoiser.

    Its attention where the denoiser's layers are named one by one.
    """
    return TARGETS[targets] if isinstance(targets, str) else ATTENTION


def two_projected(encoders: Mapping[str, Any], tokens: Tensor) -> tuple[Tensor, list[Any]]:
    """(n, tokens, width) of two CLIP encoders' last hidden states but one, side by side, and both answers.

    arXiv 2307.01952, section 2.1.
    """
    first, second = (
        encoder(tokens[:, index], output_hidden_states=True) for index, encoder in enumerate(encoders.values())
    )
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), [first, second]
