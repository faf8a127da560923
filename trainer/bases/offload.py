"""Frozen blocks that lie in main memory and come to the device in turn, the next one while its forerunner is at work.

The device has two places for them. In one lies the block at work; into the other, on a GPU by a stream of its own, the
one whose turn is next is copied. The first pass shows the order. The backward pass takes it the other way round, and
finds the last two blocks where the forward pass left them. Layer to layer, arXiv 2002.05645.

autograd keeps no weight of a lent layer: the backward pass asks for it once more. diffusers' group offloading (0.42) is
not used, for it knows forward passes alone, and points parameters back at main memory while autograd holds them.
SimpleTuner had to do without its streams under gradient checkpointing (pull request 1984) and then took it out (3150).
RamTorch wants CUDA, and a model cut into chunks that call each other in a row, which a UNet's do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input

from trainer.errors import MissingPartError

Tensor = torch.Tensor
Module = torch.nn.Module
INPUT_OF_CONVOLUTION: Any = conv2d_input
ALIGNED = 512  # bytes, as the GPU's allocator places whole tensors: kernels choose their way by it


def send_away(denoiser: Module) -> list[Module]:
    """Keep the linear layers and convolutions of the denoiser's blocks where they are, and lend them to the device.

    The device is that of what a layer reads. Call it before any adapter is put on them: an adapter may still change
    their values. `to` moves all but these layers from now on. Where there is a CUDA GPU their memory is pinned.

    Returns the layers. Raises MissingPartError where the system does not let so much memory be pinned.
    """
    blocks = layers_of_blocks(denoiser)
    lender = Lender(blocks)
    layers = [layer for block in blocks for layer in block]
    for layer in layers:
        _pin(layer)
        layer.forward = _forward_of(layer, lender)
        layer._apply = partial(_stay, layer)  # type: ignore[method-assign]
    return layers


def layers_of_blocks(denoiser: Module) -> list[list[Module]]:
    """The linear layers and convolutions of each block: of what the model's own class wants on one device together.

    Blocks of blocks are none. A few percent of a UNet's weights, between its blocks, belong to no block.
    """
    kinds = set(getattr(denoiser, "_no_split_modules", None) or ())
    blocks = [module for module in denoiser.modules() if type(module).__name__ in kinds]
    inner = [block for block in blocks if not any(part in blocks for part in block.modules() if part is not block)]
    found = [[layer for layer in block.modules() if _can_be_lent(layer)] for block in inner]
    return [layers for layers in found if layers]


class Lender:
    """Two places on a device, and whose turn it is."""

    def __init__(self, blocks: Sequence[Sequence[Module]]) -> None:
        self._blocks = blocks
        self._block_of = {layer: index for index, block in enumerate(blocks) for layer in block}
        self._room = max((sum(map(_room, _weights(block))) for block in blocks), default=0)
        self._places: list[Tensor] = []
        self._side: Any = None
        self._order: list[int] = []  # of the blocks' turns, as far as they were seen
        self._turns: dict[int, int] = {}
        self._start_anew()

    def lend(self, layer: Module, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The layer's weight and bias on the device; whole until a layer of another block is asked for."""
        if not self._places or self._places[0].device != device:
            self._open(device)
        block = self._block_of[layer]
        if block != self._at:
            self._turn_to(block)
        return self._held[block][1][layer]

    def _start_anew(self) -> None:
        self._at: int | None = None
        self._held: dict[int, tuple[int, dict[Module, tuple[Tensor, Tensor | None]]]] = {}  # block: place, layers

    def _open(self, device: torch.device) -> None:
        self._places = [torch.empty(self._room, dtype=torch.uint8, device=device) for _ in range(2)]
        self._start_anew()
        if device.type == "cuda":
            stream: Any = torch.cuda.Stream
            self._side = stream(device)
            for place in self._places:
                place.record_stream(self._side)

    def _turn_to(self, block: int) -> None:
        if block not in self._held:
            self._bring(block)
        if self._side is not None:
            torch.cuda.current_stream(self._places[0].device).wait_stream(self._side)
        following = self._following(block)
        self._at = block
        if following is not None and following not in self._held:
            self._bring(following)

    def _following(self, block: int) -> int | None:
        """Whose turn is next: the neighbour away from the block that is at work until now."""
        if block not in self._turns:
            self._turns[block] = len(self._order)
            self._order.append(block)
        turn = self._turns[block]
        onward = self._at is None or turn > self._turns[self._at]
        following = turn + 1 if onward else turn - 1
        return self._order[following] if 0 <= following < len(self._order) else None

    def _bring(self, block: int) -> None:
        """Copy a block into the place that is not at work."""
        place = 1 - self._held[self._at][0] if self._at in self._held else 0
        self._held = {held: lent for held, lent in self._held.items() if lent[0] != place}
        with self._aside():
            self._held[block] = place, self._filled(self._places[place], self._blocks[block])

    def _filled(self, place: Tensor, block: Sequence[Module]) -> dict[Module, tuple[Tensor, Tensor | None]]:
        views, start = [], 0
        for weight in _weights(block):
            end = start + weight.numel() * weight.element_size()
            strides = torch.empty_like(weight, device="meta").stride()  # dense, in the same memory format
            view = place[start:end].view(weight.dtype).as_strided(weight.shape, strides)
            views.append(view.copy_(weight.detach(), non_blocking=True))
            start += _room(weight)
        given = iter(views)
        return {layer: (next(given), None if layer.bias is None else next(given)) for layer in block}

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a GPU, the stream that copies, once all that was computed there until now is done with the place."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream(self._places[0].device))
        with torch.cuda.stream(self._side):
            yield


class _Lent(torch.autograd.Function):
    """A layer's answer, and the gradient of its input; the layer itself is frozen."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, layer: Any, lender: Lender) -> Tensor:
        ctx.layer, ctx.lender, ctx.shape, ctx.dtype = layer, lender, given.shape, given.dtype
        weight, bias = lender.lend(layer, given.device)
        if isinstance(layer, torch.nn.Linear):
            return functional.linear(given, weight, bias)
        answer: Tensor = layer._conv_forward(given, weight, bias)
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        layer = ctx.layer
        weight = ctx.lender.lend(layer, gradient.device)[0].to(gradient.dtype)
        if isinstance(layer, torch.nn.Linear):  # as autograd does it, to the bit
            back = (gradient.reshape(-1, gradient.shape[-1]) @ weight).view(ctx.shape)
        else:
            shape = layer.stride, layer.padding, layer.dilation, layer.groups
            back = INPUT_OF_CONVOLUTION(ctx.shape, weight, gradient, *shape)
        return back.to(ctx.dtype), None, None


def _forward_of(layer: Module, lender: Lender) -> Callable[[Tensor], Tensor]:
    def forward(given: Tensor) -> Tensor:
        function: Any = _Lent
        answer: Tensor = function.apply(given, layer, lender)
        return answer

    return forward


def _stay(layer: Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> Module:
    """In `to`'s place. An adapter's start may have put new weights there."""
    _pin(layer)
    return layer


def _pin(layer: Module) -> None:
    """Only from pinned memory does a GPU copy while it computes. torch takes the next power of two of bytes."""
    if not torch.cuda.is_available():
        return
    for weight in layer.parameters(recurse=False):
        if weight.device.type == "cpu" and not weight.is_pinned():
            try:
                weight.data = weight.data.pin_memory()
            except RuntimeError as error:
                hint = "set fit.offload to false, or base.quantize to nf4 in its place"
                raise MissingPartError(f"main memory cannot be pinned for fit.offload: {error}", hint) from None


def _can_be_lent(layer: Any) -> bool:
    if type(layer) is torch.nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is torch.nn.Linear


def _weights(block: Sequence[Any]) -> Iterator[Tensor]:
    """Weight and bias of each layer, in the order of the layers."""
    for layer in block:
        yield layer.weight
        if layer.bias is not None:
            yield layer.bias


def _room(weight: Tensor) -> int:
    return -(-weight.numel() * weight.element_size() // ALIGNED) * ALIGNED
