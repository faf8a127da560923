"""An adapter file into a diffusers pipeline, through diffusers' own loader, with nothing left over."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from trainer.adapter import kind_of, read_whole, write_adapter
from trainer.errors import IntegrityError
from trainer.layouts.header import check_header
from trainer.layouts.layer import Layer
from trainer.layouts.layers import canonical, diffusers_reads_kohya, layout_of, read_layers, to_diffusers
from trainer.layouts.words import BUNDLE, Words

STRENGTH_TOLERANCE = 0.02  # above what bf16 rounds, far below a mistaken alpha


def load_adapter(pipeline: Any, file: Path, adapter: str, base: str) -> Words:
    """Load the file as any user would, under the name `adapter`; returns the vectors of its new words, not loaded yet.

    It is read and checked before diffusers sees it. What diffusers has no reader for (SD3 in kohya's layout, the
    original model's module names), a DoRA under names by which it would drop the lengths, and a LoRA with vectors among
    its tensors go in with the same tensors under the names that it takes. Raises IntegrityError, naming the file
    and the layers, for a file that is no whole LoRA or DoRA or that the pipeline did not take whole.
    """
    tensors, words, metadata = read_whole(file)
    wanted = read_layers(file, tensors, metadata)
    layout = layout_of(tensors)
    as_it_is = layout == "diffusers" or (layout == "kohya" and diffusers_reads_kohya(wanted))
    renamed, extra = (tensors, metadata) if as_it_is and kind_of(tensors) == "lora" else to_diffusers(wanted)
    if renamed.keys() != tensors.keys() or any(name.startswith(BUNDLE) for name in check_header(file)):
        with TemporaryDirectory() as folder:
            write_adapter(Path(folder) / file.name, renamed, extra)
            _load(pipeline, Path(folder) / file.name, file, adapter, base)
    else:
        _load(pipeline, file, file, adapter, base)
    taken = adapted_modules(pipeline, adapter)
    left = sorted(wanted.keys() - taken.keys())
    if left:
        names = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise IntegrityError(f"{file}: {len(left)} of {len(wanted)} layers are unknown to base {base}: {names}")
    for name, layer in wanted.items():
        _check_strength(file, name, layer, taken[name], adapter)
        _check_lengths(file, name, layer, taken[name], adapter)
    return words


def _load(pipeline: Any, source: Path, file: Path, adapter: str, base: str) -> None:
    """Through diffusers' own loader; `file` is the name to complain of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pipeline.load_lora_weights(
                str(source.parent), weight_name=source.name, adapter_name=adapter, use_safetensors=True
            )
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise IntegrityError(f"{file} does not fit base {base}: {said[:500]}") from None


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


def _check_lengths(file: Path, name: str, layer: Layer, module: Any, adapter: str) -> None:
    """A DoRA's lengths are there and those of the file, and a LoRA has none."""
    taken = module.lora_magnitude_vector[adapter].weight if adapter in module.lora_magnitude_vector else None
    if (taken is None) != (layer.lengths is None):
        raise IntegrityError(f"{file}: diffusers {'dropped' if taken is None else 'made up'} the lengths of {name}")
    if taken is None or layer.lengths is None:
        return
    found = taken.detach().float().flatten()
    if not torch.allclose(found, layer.lengths.float().flatten().to(found.device), rtol=STRENGTH_TOLERANCE):
        raise IntegrityError(f"{file}: diffusers took other lengths of {name} than the file's")
