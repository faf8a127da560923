"""Where a pipeline's parts lie, and in which memory format."""

from __future__ import annotations

from typing import Any

import torch

from trainer.bases.quantize import is_quantized

SHARE_OF_GPU = 0.5  # of its memory that all parts may fill together


def modules_of(pipeline: Any) -> dict[str, torch.nn.Module]:
    """Its networks by name."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def to_channels_last(denoiser: torch.nn.Module) -> None:
    """Copy every weight, convolutions in that format: one left in the mapped file keeps all of it in memory."""
    for module in denoiser.modules():
        for name, weight in module._parameters.items():
            if weight is not None and not (is_quantized(module) and name == "weight"):  # already a copy, with scales
                format_of = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
                weight.data = weight.data.clone(memory_format=format_of)


def place(pipeline: Any, device: torch.device) -> None:
    """Put the parts on the device; where they would fill a GPU, each only while it works."""
    if device.type == "cuda":
        parts = modules_of(pipeline).values()
        held = sum(p.numel() * p.element_size() for part in parts for p in part.parameters() if not p.is_pinned())
        if held > SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory:
            pipeline.enable_model_cpu_offload(device=device)
            return
    pipeline.to(device)
