"""An adapter file, made by any tool, as the start of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.adapter import read_whole
from trainer.bases.words import NewRows, all_new_rows
from trainer.errors import RecipeError
from trainer.fit.lora import NAME, lora_layers
from trainer.layouts.layers import canonical
from trainer.layouts.words import KEYS, Words

Tensor = torch.Tensor
PREFIXES = ("base_model.model.", "unet.", "transformer.", "lora_unet_", "lora_transformer_")
# kohya's names of text encoders, and diffusers'.
ENCODERS = {"lora_te_": "text_encoder.", "lora_te1_": "text_encoder.", "lora_te2_": "text_encoder_2."}
# The endings of PEFT's, diffusers' and kohya's names, and what they are.
ENDINGS = {
    ".lora_A.weight": "down", ".lora_down.weight": "down", ".lora_B.weight": "up", ".lora_up.weight": "up",
    ".alpha": "alpha", ".lora_magnitude_vector": "magnitude", ".lora_magnitude_vector.weight": "magnitude",
    ".dora_scale": "magnitude",
}  # fmt: skip


def warm_start(adapted: Mapping[str, torch.nn.Module], path: Path) -> None:
    """Put the file's update into the adapter on these parts of a base; layers that it lacks stay as they are.

    A file of a smaller rank fills the first rows of A and columns of B; B is zero in the others. Vectors of a word in
    the file are where those of the word that is learned begin, whatever it is called.

    Raises:
        IntegrityError: the file is not whole safetensors, or a weight is no number.
        RecipeError: it does not fit the adapter that the recipe asks for; every problem at once.
    """
    tensors, words, _ = read_whole(path)
    layers = {
        _stem(f"{component}.{name}"): layer
        for component, part in adapted.items()
        for name, layer in lora_layers(part).items()
    }
    parts: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for key, tensor in tensors.items():
        stem, kind = _parsed(key)
        if kind and stem in layers:
            parts.setdefault(stem, {})[kind] = tensor
        else:
            strangers.append(key)
    problems = [f"{stem}: {why}" for stem, part in parts.items() for why in _problems(layers[stem], part)]
    if strangers:
        keys = "fit.targets, fit.text_encoder_rate"
        problems.append(f"{len(strangers)} tensors belong to no adapted layer ({keys}), such as {strangers[0]}")
    new = all_new_rows(adapted)
    problems += _word_problems(new, words)
    if problems or not parts:
        said = problems[:5] or ["it holds no LoRA"]
        raise RecipeError([f"fit.warm_start: {path.name}: {problem}" for problem in said])
    for stem, part in parts.items():
        _fill(layers[stem], part)
    for own in words.values():
        for rows, key in zip(new.values(), KEYS, strict=False):
            rows.begin_at(own[key])


def _word_problems(new: Mapping[str, NewRows], words: Words) -> list[str]:
    """Why the new rows of the encoders cannot begin at the file's vectors."""
    if len(words) > 1:
        return [f"it has vectors of {len(words)} words"]
    wanted = {key: tuple(rows.rows.shape) for rows, key in zip(new.values(), KEYS, strict=False)}
    for word, own in words.items():
        found = {key: tuple(tensor.shape) for key, tensor in own.items()}
        if found == wanted:
            continue
        count = len(next(iter(own.values())))
        if len(next(iter(new.values())).rows if new else ()) != count:
            return [f"its word {word} has {count} vectors: set fit.new_tokens={count}"]
        return [f"the vectors of its word {word} have another shape: the file is of another base"]
    return []


def _parsed(key: str) -> tuple[str, str | None]:
    """Module name, dots as underscores, and what the tensor is of it (None: nothing known)."""
    ending = next((ending for ending in ENDINGS if key.endswith(ending)), None)
    return _stem(key.removesuffix(ending or "")), ENDINGS.get(ending or "")


def _stem(name: str) -> str:
    """A layer's name below the denoiser, or with its text encoder's before it, dots as underscores."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for prefix, component in ENCODERS.items():
        name = component + name.removeprefix(prefix) if name.startswith(prefix) else name
    return (canonical(name) if "." in name else name).replace(".", "_")


def _problems(layer: Any, part: Mapping[str, Tensor]) -> list[str]:
    if not {"down", "up"} <= part.keys():
        return ["only one half of it is there"]
    own = (layer.lora_A[NAME].weight, layer.lora_B[NAME].weight)
    rank, own_rank = part["down"].shape[0], own[0].shape[0]
    if rank > own_rank:
        return [f"its rank is {rank}, above {own_rank}: raise fit.rank"]
    if part["down"].shape[1:] != own[0].shape[1:] or part["up"].shape != (own[1].shape[0], rank, *own[1].shape[2:]):
        return ["it has another shape: the file is of another base"]
    if "magnitude" not in part:
        return []
    if NAME not in layer.lora_magnitude_vector:
        return ["it is a DoRA: set fit.adapter=dora"]
    same = part["magnitude"].numel() == layer.lora_magnitude_vector[NAME].weight.numel()
    return [] if same else ["its magnitudes have another shape: the file is of another base"]


@torch.no_grad()
def _fill(layer: Any, part: Mapping[str, Tensor]) -> None:
    rank = part["down"].shape[0]
    scale = float(part["alpha"]) / rank if "alpha" in part else 1.0
    layer.lora_A[NAME].weight[:rank] = part["down"]
    layer.lora_B[NAME].weight[:, :rank] = part["up"].float() * (scale / layer.scaling[NAME])
    if NAME in layer.lora_magnitude_vector:
        vector = layer.lora_magnitude_vector[NAME]
        if "magnitude" in part:
            vector.weight.copy_(part["magnitude"].reshape(vector.weight.shape))
        else:  # a plain LoRA: the length of what it makes of the weights
            weight = layer.get_base_layer().weight
            vector.weight.copy_(vector.get_weight_norm(weight, layer.get_delta_weight(NAME), scaling=1))
