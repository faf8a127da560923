"""The PEFT adapter on the denoiser (only user of peft)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from trainer.errors import RecipeError
from trainer.layouts.layers import canonical
from trainer.layouts.lengths import lengths_name

Tensor = torch.Tensor
NAME = "default"


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of adapter, and where; values as in `trainer.sections.FitSection`.

    Attributes:
        kind: `lora` (arXiv 2106.09685), `rslora` (arXiv 2312.03732) or `dora` (arXiv 2402.09353).
        targets: module name endings.
        init: `gaussian`, `pissa` (arXiv 2404.02948) or `olora` (arXiv 2406.01775).
        rank_pattern: other ranks for modules whose names end so; `*` stands for anything.
    """

    rank: int
    alpha: float
    targets: Sequence[str]
    kind: str = "lora"
    init: str = "gaussian"
    dropout: float = 0.0
    rank_pattern: Mapping[str, int] | None = None


def add_lora(denoiser: torch.nn.Module, shape: Shape, seed: int) -> dict[str, Tensor]:
    """Put a new adapter on the denoiser; returns its trainable parameters by name.

    Gaussian: A has variance 1/rank^2 and B is zero. PiSSA and OLoRA move a part of the frozen weights into A and B.
    Either way the first step starts from the base itself.

    Raises RecipeError for targets that the denoiser does not have, and for a start that PEFT cannot make of them.
    """
    patterns = {_pattern(name): rank for name, rank in (shape.rank_pattern or {}).items()}
    _check(denoiser, shape, patterns)
    options: dict[str, Any] = {
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "init_lora_weights": shape.init,
        "use_rslora": shape.kind == "rslora",
        "use_dora": shape.kind == "dora",
        "rank_pattern": patterns,
    }
    config = LoraConfig(r=shape.rank, target_modules=list(shape.targets), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, denoiser, adapter_name=NAME)
    weights: dict[str, Tensor] = {
        name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad
    }
    for weight in weights.values():
        weight.data = weight.data.float()  # the optimizer's small steps vanish in a base's bf16
    return weights


def lora_layers(denoiser: torch.nn.Module) -> dict[str, Any]:
    """PEFT's layers by the names of the modules that they stand in for."""
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, LoraLayer)}


def lora_start(denoiser: torch.nn.Module, init: str, component: str = "unet") -> dict[str, Tensor]:
    """`lora_tensors` before the first step, where the frozen weights were changed for them; else nothing."""
    return {} if init == "gaussian" else lora_tensors(denoiser, component=component)


def lora_tensors(
    denoiser: torch.nn.Module, start: Mapping[str, Tensor] | None = None, component: str = "unet"
) -> dict[str, Tensor]:
    """Copies of the adapter's tensors under diffusers' names; they mean B A to be added to the base's own weights.

    The scale (alpha / rank, or alpha / sqrt(rank) in rsLoRA) is folded into B, so the file means the same to loaders
    that read an alpha and to those that assume alpha = rank. What PiSSA or OLoRA took out of the frozen weights is
    taken from the update, as B A - B0 A0 = [B, -B0] [A; A0], of twice the rank (arXiv 2404.02948).

    Args:
        start: what `lora_start` gave; empty or None for an adapter that started from zero.
        component: `unet`, `transformer` or a text encoder's name, as the names begin.
    """
    found: dict[str, Tensor] = {}
    for name, layer in lora_layers(denoiser).items():
        stem = canonical(f"{component}.{name}")
        down, up = f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"
        found[down] = layer.lora_A[NAME].weight.detach().cpu().clone()
        found[up] = (layer.lora_B[NAME].weight * layer.scaling[NAME]).detach().cpu().clone()
        if start:
            found[down] = torch.cat([found[down], start[down]], 0)
            found[up] = torch.cat([found[up], -start[up]], 1)
        if NAME in layer.lora_magnitude_vector:
            magnitude = layer.lora_magnitude_vector[NAME].weight
            found[lengths_name(stem)] = magnitude.detach().cpu().clone()
    return found


def _pattern(name: str) -> str:
    """PEFT's regular expression of a module name ending in which `*` stands for anything."""
    return re.escape(name).replace(r"\*", ".*")


def _check(denoiser: torch.nn.Module, shape: Shape, patterns: Mapping[str, int]) -> None:
    """Raises RecipeError, with every problem, for an adapter that this denoiser cannot carry."""
    modules = dict(denoiser.named_modules())
    problems = []
    taken: dict[str, torch.nn.Module] = {}
    for target in shape.targets:
        found = {name: module for name, module in modules.items() if name == target or name.endswith(f".{target}")}
        plain = {name: m for name, m in found.items() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
        if not plain:
            problems.append(f"fit.targets: the base has no linear layer or convolution called {target}")
        taken |= plain
    ranks = dict.fromkeys(taken, shape.rank)
    for pattern, rank in reversed(list(patterns.items())):  # PEFT takes the first that matches
        matched = [name for name in taken if re.fullmatch(rf"(.*\.)?({pattern})", name)]
        if not matched:
            problems.append(f"fit.rank_pattern: no adapted layer is called {pattern.replace(chr(92), '')}")
        ranks |= dict.fromkeys(matched, rank)
    if shape.init != "gaussian":
        problems += _start_problems(shape.init, taken, ranks)
    if problems:
        raise RecipeError(problems)


def _start_problems(init: str, taken: Mapping[str, torch.nn.Module], ranks: Mapping[str, int]) -> list[str]:
    """Why PEFT cannot start these layers from the frozen weights."""
    convolution = next((name for name, module in taken.items() if isinstance(module, torch.nn.Conv2d)), None)
    if convolution:
        return [f"fit.init: {init} is for linear layers, and {convolution} is a convolution: set fit.targets=attention"]
    return [
        f"fit.init: {init} needs a rank of at most {min(module.weight.shape)} in {name}, not {ranks[name]}"
        for name, module in taken.items()
        if isinstance(module, torch.nn.Linear) and ranks[name] > min(module.weight.shape)
    ][:1]
