"""Counting a step without making it: the bytes and the arithmetic of tensors that hold no data."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakIdKeyDictionary

from trainer.bases.conditioning import Conditioning
from trainer.bases.offload import send_away
from trainer.bases.quantize import scales_of
from trainer.bases.sketch import Sketch
from trainer.fit.adapted import adapt, parts_of, recompute
from trainer.fit.heap import Heap
from trainer.fit.objective import Examples, diffusion_loss
from trainer.fit.settings import Settings

Tensor = torch.Tensor
PASSES = 3  # of the heap: each step leaves it other holes
SMALL = 2**27  # bytes of a step whose holes after one pass will do
OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "lion": 4, "adafactor": 0}  # a parameter

flops: Any = flop_counter
# The counter knows the attention of GPUs only. It hands over the shapes of the arguments.
CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: flops.sdpa_flop_count(
        q, k, v
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda answer, q, k, v, *_, **__: flops.sdpa_backward_flop_count(answer, q, k, v)
    ),
}


@dataclass(frozen=True, slots=True)
class Tally:
    """What one part of a step needs; bytes, and floating point operations.

    Attributes:
        frozen: the own weights of the denoiser and of text encoders that learn.
        adapter: the adapter's weights, what the optimizer remembers of them, and their averages.
        away: the part of `frozen` that lies in main memory, whatever the device.
        step: gradients, what is kept for the backward pass, and what comes and goes, at its most.
        holes: what the C library's heap is larger than that at its most, where tensors lie there (see `heap`).
        flops: of the forward and the backward pass.
    """

    frozen: int
    away: int
    adapter: int
    step: int
    holes: int
    flops: int


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages made inside, now and at most."""

    def __init__(self, on_cpu: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_cpu = on_cpu
        self._heap = Heap() if on_cpu and Heap.is_here() else None
        self.now = self.peak = self.resident = 0
        self._known: Any = WeakIdKeyDictionary(ref_type=weakref.ref)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        tree_map_only(torch.Tensor, self._count, made)
        scratch = _scratch(func, args, made, self._on_cpu)
        self.peak = max(self.peak, self.now + scratch)
        if self._heap is not None:
            self.resident = max(self.resident, self._heap.resident + scratch)
        return made

    @property
    def has_holes(self) -> bool:
        """Whether storages come from a heap that is asked where it would put them."""
        return self._heap is not None

    def known(self, tensor: Tensor) -> None:
        """It was there before, and counts for nothing."""
        self._known[tensor.untyped_storage()] = 0

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            size = storage.nbytes()
            self._known[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            block = self._heap.claim(size) if self._heap is not None and size else None
            weakref.finalize(storage, self._freed, size, block)

    def _freed(self, size: int, block: tuple[int, int] | None) -> None:
        self.now -= size
        if self._heap is not None and block:
            self._heap.free(block)


def _scratch(func: Any, args: Any, made: Any, on_cpu: bool) -> int:
    """Bytes that an operation takes for itself while it works.

    A product with 4-bit weights: these, widened. A convolution on the CPU: in fp32 oneDNN reorders the weights for each
    call; where it has no bf16 kernels, torch unfolds the input into columns, one a place, of all the kernel sees there.
    """
    if func.name() == "bitsandbytes::gemm_4bit":
        return int(args[0].element_size() * math.prod(args[2]))
    if func is torch.ops.aten.convolution.default:
        given, weight, answer = args[0], args[1], made
    elif func is torch.ops.aten.convolution_backward.default:
        answer, given, weight = args[:3]
    else:
        return 0
    if not on_cpu:
        return 0
    if given.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return _bytes(weight)
    places = len(given) * answer.shape[2:].numel() if weight.shape[2:].numel() > 1 else 0
    return int(weight[0].numel() * places * given.element_size())


def tally(base: Sketch, s: Settings, device: torch.device) -> Tally:
    """Count a forward and a backward pass of `batch_size` and `prior_batch` rows with the adapter of these settings.

    The library's own kernels are asked for their shapes under FakeTensorMode; nothing is computed. The sketch is used
    up: it carries the adapter afterwards. Raises RecipeError for an adapter that the base cannot carry.
    """
    away = send_away(base.denoiser) if s.offload else []
    # Other starts need the weights' values, and no more memory while fitting.
    adapt(base, replace(s, init="gaussian"))
    if s.gradient_checkpointing:
        # Generators have no state to keep among tensors without data.
        again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        recompute(base, again)
    parts = parts_of(base).values()
    for part in parts:
        part.train()
    live, text = _Live(device.type == "cpu"), base.words(s.batch_size + s.prior_batch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        base.fill(device)
        own = [weight for part in parts for weight in part.parameters()]
        trained = [weight for weight in own if weight.requires_grad]
        held = [*own, *(buffer for part in parts for buffer in part.buffers()), *scales_of(base.denoiser)]
        for tensor in held:
            live.known(tensor)
        given = _examples(base, text, device)
        counter = flop_counter.FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
        passes = 0
        with live, counter:
            while passes == 0 or (live.has_holes and live.peak > SMALL and passes < PASSES):
                passes += 1
                loss: Any = diffusion_loss(base, given, s.weighting, s.min_snr_gamma).sum()
                loss.backward()
                del loss
                for weight in trained:
                    weight.grad = None
    adapted = sum(weight.numel() for weight in trained)
    each = 4 + OPTIMIZER_BYTES[s.optimizer] + (4 if s.ema_decay is not None else 0)
    frozen = sum(_bytes(tensor) for tensor in held) - 4 * adapted
    lent = sum(_bytes(weight) for layer in away for weight in layer.parameters())
    holes = max(0, live.resident - live.peak)
    return Tally(frozen, lent, each * adapted, live.peak, holes, counter.get_total_flops() // passes)


def _examples(base: Sketch, text: Conditioning, device: torch.device) -> Examples:
    """Blank rows on the device; the lengths of the texts stay real, for a denoiser may ask for them."""
    rows = len(text)
    latents, levels = base.latents(rows).to(device), torch.zeros(rows, dtype=torch.long, device=device)
    said = replace(text.to(device), lengths=text.lengths)
    return Examples(latents, levels, said, latents, latents[:, :1], levels)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
