"""Tensor names of the layouts that adapters are read in."""

from __future__ import annotations

import torch

Tensors = dict[str, torch.Tensor]
UNET = "unet."


def to_kohya(tensors: Tensors) -> Tensors:
    """diffusers' names to those of kohya's networks/lora.py, read by ComfyUI and A1111 too; alpha equals the rank."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        module, _, half = name.removeprefix(UNET).rpartition(".lora_")
        stem = "lora_unet_" + module.replace(".", "_")
        if half == "A.weight":
            renamed[f"{stem}.lora_down.weight"] = tensor
            renamed[f"{stem}.alpha"] = torch.tensor(float(tensor.shape[0]), dtype=tensor.dtype)
        else:
            renamed[f"{stem}.lora_up.weight"] = tensor
    return renamed
