"""An adapter file into a diffusers pipeline, through diffusers' own loader, with nothing left over."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from trainer.adapter import read_adapter
from trainer.errors import IntegrityError
from trainer.layouts.layers import canonical, read_layers


def load_adapter(pipeline: Any, file: Path, adapter: str, base: str) -> None:
    """Load the file as any user would, under the name `adapter`.

    It is read and checked before diffusers sees it. Raises IntegrityError, naming the file and the layers, for a file
    that is no whole plain LoRA or that the pipeline did not take whole.
    """
    tensors, metadata = read_adapter(file)
    wanted = read_layers(file, tensors, metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=adapter, use_safetensors=True
            )
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise IntegrityError(f"{file} does not fit base {base}: {first[:500]}") from None
    left = sorted(wanted.keys() - adapted_modules(pipeline, adapter))
    if left:
        names = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise IntegrityError(f"{file}: {len(left)} of {len(wanted)} layers are unknown to base {base}: {names}")


def adapted_modules(pipeline: Any, adapter: str) -> set[str]:
    """The layers that carry the adapter, as `unet.mid_block.attentions.0.proj_in`."""
    return {
        canonical(f"{part}.{name}")
        for part, model in pipeline.components.items()
        if isinstance(model, torch.nn.Module)
        for name, module in model.named_modules()
        if adapter in getattr(module, "lora_A", ())
    }
