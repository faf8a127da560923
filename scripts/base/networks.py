"""What the embedded base is made of beside its autoencoder: tokenizer, text encoder and denoiser, still untrained."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from captions import vocabulary

TEXT_SCALE = 3.0  # one word among 32 tokens is heard sooner
TEXT_TOKENS = 32
UNET_WIDTHS = {"whole": (96, 192, 256), "lean": (64, 128, 192)}  # 17.3 and 8.8 million weights, 1.9 and 0.9 GFLOP


def learned_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016, algorithm 1) until every word is one token.

    Own code, since `tokenizers` merges equally frequent pairs in another order every time, and with it a seed would
    not say what a training makes. Here the alphabet decides.
    """
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for parts in spelled for pair in pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [merged(parts, best) for parts in spelled]
    return merges


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every occurrence of `pair`, from the left, made one."""
    out: list[str] = []
    joined = False
    for part in parts:
        joined = bool(out) and not joined and (out[-1], part) == pair
        out[-1:] = [out[-1] + part] if joined else [*out[-1:], part]
    return out


def write_tokenizer(folder: Path) -> None:
    """A CLIP byte-pair vocabulary in which the grammar's words are single tokens and any other word is spelled."""
    from tokenizers import pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learned_merges(vocabulary())
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += dict.fromkeys(left + right for left, right in merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TEXT_TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def build_text_encoder(vocab_size: int):
    """Words start far apart and move slowly: at the UNet's rate every caption collapsed to one output."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            projection_dim=128,
            hidden_act="quick_gelu",
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
        )
    )
    for name, parameter in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif name.endswith("position_embedding.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith("final_layer_norm.weight"):
            torch.nn.init.constant_(parameter, TEXT_SCALE)
    return encoder


def build_unet(latent_channels: int, size: str = "whole"):
    """A denoiser of one of the `UNET_WIDTHS`; residual branches start silent, as in ADM (arXiv 2105.05233)."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=UNET_WIDTHS[size],
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=128,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, BasicTransformerBlock):
            torch.nn.init.zeros_(module.attn1.to_out[0].weight)
            torch.nn.init.zeros_(module.ff.net[2].weight)
    return unet.to(memory_format=torch.channels_last)  # 1.1 times faster on CPUs
