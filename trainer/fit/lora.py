"""The PEFT adapter on the denoiser (only user of peft)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

Tensor = torch.Tensor
NAME = "default"


def add_lora(denoiser: torch.nn.Module, rank: int, alpha: float, targets: Sequence[str], seed: int) -> list[Tensor]:
    """Put a new adapter (arXiv 2106.09685) on the denoiser; returns its trainable parameters.

    A is Gaussian with variance 1/rank^2 and B zero, so the first step starts from the base itself.
    """
    options: dict[str, Any] = {"lora_alpha": alpha, "init_lora_weights": "gaussian"}
    config = LoraConfig(r=rank, target_modules=list(targets), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, denoiser, adapter_name=NAME)
    parameters: list[Tensor] = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()  # the optimizer's small steps vanish in a base's bf16
    return parameters


def lora_tensors(denoiser: torch.nn.Module, scale: float, component: str = "unet") -> dict[str, Tensor]:
    """Copies of the adapter's tensors under diffusers' names, which begin with `component`, alpha / rank folded into B.

    Folded, the file means the same to loaders that read an alpha and to those that assume alpha = rank.
    """
    state = get_peft_model_state_dict(denoiser, adapter_name=NAME)
    return {
        f"{component}.{name}": (tensor * scale if "lora_B" in name else tensor).detach().cpu().clone()
        for name, tensor in state.items()
    }


def restore_lora(denoiser: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put tensors that `lora_tensors` took with scale 1 back."""
    state = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    set_peft_model_state_dict(denoiser, state, adapter_name=NAME)
