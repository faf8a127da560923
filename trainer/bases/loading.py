"""An adapter file into a diffusers pipeline, through diffusers' own loader, with nothing left over."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch

from trainer.adapter import read_adapter
from trainer.errors import IntegrityError
from trainer.layouts.layers import Layer, canonical, read_layers

MAGNITUDE = ".lora_magnitude_vector"  # DoRA's lengths of the rows (arXiv 2402.09353, eq. 5)
STRENGTH_TOLERANCE = 0.02  # above what bf16 rounds, far below a mistaken alpha


def load_adapter(pipeline: Any, file: Path, adapter: str, base: str) -> None:
    """Load the file as any user would, under the name `adapter`.

    It is read and checked before diffusers sees it. Raises IntegrityError, naming the file and the layers, for a file
    that is no whole plain LoRA or DoRA or that the pipeline did not take whole.
    """
    tensors, metadata = read_adapter(file)
    lengths = [name for name in tensors if name.endswith(MAGNITUDE)]
    wanted = read_layers(file, {name: t for name, t in tensors.items() if name not in lengths}, metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=adapter, use_safetensors=True
            )
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise IntegrityError(f"{file} does not fit base {base}: {said[:500]}") from None
    taken = adapted_modules(pipeline, adapter)
    left = sorted(wanted.keys() - taken.keys())
    if left:
        names = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise IntegrityError(f"{file}: {len(left)} of {len(wanted)} layers are unknown to base {base}: {names}")
    for name in lengths:
        if adapter not in getattr(taken.get(canonical(name.removesuffix(MAGNITUDE))), "lora_magnitude_vector", ()):
            raise IntegrityError(f"{file}: diffusers did not take {name}")
    for name, layer in wanted.items():
        _check_strength(file, name, layer, taken[name], adapter)


def adapted_modules(pipeline: Any, adapter: str) -> dict[str, Any]:
    """The layers that carry the adapter, by name, as `unet.mid_block.attentions.0.proj_in`."""
    return {
        canonical(f"{part}.{name}"): module
        for part, model in pipeline.components.items()
        if isinstance(model, torch.nn.Module)
        for name, module in model.named_modules()
        if adapter in getattr(module, "lora_A", ())
    }


def fold(pipeline: Any, adapter: str) -> list[tuple[torch.nn.Module, torch.Tensor]]:
    """Add the adapter to the weights under it; returns each layer with its weights as they were.

    Only fp32 weights: a narrower format would round the update away. Nothing is done, and nothing returned, for others.
    """
    modules: list[Any] = list(adapted_modules(pipeline, adapter).values())
    layers: list[Any] = [module.get_base_layer() for module in modules]
    if any(layer.weight.dtype != torch.float32 for layer in layers):
        return []
    plain = [(layer, layer.weight.detach().clone()) for layer in layers]
    for module in modules:
        module.merge(adapter_names=[adapter])
    return plain


def unfold(plain: list[tuple[torch.nn.Module, torch.Tensor]]) -> None:
    """Put back what `fold` returned, bit for bit."""
    for layer, weight in plain:
        layer.get_parameter("weight").data.copy_(weight)


def _check_strength(file: Path, name: str, layer: Layer, module: Any, adapter: str) -> None:
    """Scale and weights together are what the file says; diffusers mistakes some alphas where layers differ in them."""
    said = layer.alpha / layer.rank * float(layer.down.float().norm()) * float(layer.up.float().norm())
    halves = (module.lora_A[adapter].weight, module.lora_B[adapter].weight)
    found = module.scaling[adapter] * math.prod(float(half.detach().float().norm()) for half in halves)
    if not math.isclose(said, found, rel_tol=STRENGTH_TOLERANCE, abs_tol=1e-12):
        raise IntegrityError(
            f"{file}: diffusers takes {name} {found / said if said else math.inf:.3g} times as strong as the file says",
            f"trainer convert {file} --layout diffusers, and use that file",
        )
