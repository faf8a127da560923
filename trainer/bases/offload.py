"""Frozen blocks that lie in main memory: each layer of theirs comes to the device for its forward and backward pass.

Layer to layer, as in arXiv 2002.05645. diffusers' group offloading (0.42) is for inference: after a block's forward
pass it points the parameters at main memory again, which are the very ones that autograd keeps for the backward pass.
Here autograd keeps nothing of a layer; the backward pass fetches its weights once more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

Tensor = torch.Tensor


def send_away(denoiser: torch.nn.Module, device: torch.device) -> list[torch.nn.Module]:
    """Keep the linear layers and convolutions of the denoiser's blocks where they are, and lend them to the device.

    Call it before any adapter is put on them. `to` moves all but these layers from now on. Returns the layers.
    """
    layers = layers_of_blocks(denoiser)
    for layer in layers:
        if device.type == "cuda":
            for weight in layer.parameters():
                weight.data = weight.data.pin_memory()
        layer.forward = _forward_of(layer, device)
        layer._apply = partial(_stay, layer)  # type: ignore[method-assign]
    return layers


def layers_of_blocks(denoiser: torch.nn.Module) -> list[torch.nn.Module]:
    """Every linear layer and convolution below a list of modules: those lists are what models are deep by."""
    return [
        layer
        for name, layer in denoiser.named_modules()
        if type(layer) in (torch.nn.Linear, torch.nn.Conv2d) and any(part.isdigit() for part in name.split("."))
    ]


def fetched(weight: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, on the CPU too: what is lent is given back there as anywhere."""
    return weight.detach().to(device, non_blocking=True, copy=True)


class _Lent(torch.autograd.Function):
    """A layer's answer, and the gradient of its input; the layer itself is frozen."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, layer: Any, device: torch.device) -> Tensor:
        ctx.layer, ctx.device, ctx.shape, ctx.dtype = layer, device, given.shape, given.dtype
        weight = fetched(layer.weight, device)
        bias = None if layer.bias is None else fetched(layer.bias, device)
        if isinstance(layer, torch.nn.Linear):
            return functional.linear(given, weight, bias)
        answer: Tensor = layer._conv_forward(given, weight, bias)
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        layer = ctx.layer
        weight = fetched(layer.weight, ctx.device).to(gradient.dtype)
        if isinstance(layer, torch.nn.Linear):
            back = gradient @ weight
        else:
            shape = layer.stride, layer.padding, layer.dilation, layer.groups
            back = torch.nn.grad.conv2d_input(ctx.shape, weight, gradient, *shape)
        return back.to(ctx.dtype), None, None


def _forward_of(layer: torch.nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    def forward(given: Tensor) -> Tensor:
        answer: Tensor = _Lent.apply(given, layer, device)
        return answer

    return forward


def _stay(layer: torch.nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> torch.nn.Module:
    """In `to`'s place."""
    return layer
