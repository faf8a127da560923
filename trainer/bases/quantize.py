"""Frozen linear layers in 8 or 4 bits, under an adapter in fp32 (QLoRA, arXiv 2305.14314).

`int8`: a row of a weight is whole numbers of -127 to 127 and one fp32 scale (LLM.int8(), arXiv 2208.07339).
`nf4`: 64 values are 16 quantiles of a normal distribution, 4 bits each, and one fp32 scale (arXiv 2305.14314).
Convolutions, norms and what the model's own class wants in fp32 stay as they are. The layers are bitsandbytes', which
is imported by name: it runs on CUDA and on the CPU. Diffusers' own way to them refuses to work without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from trainer.errors import MissingPartError

Tensor = torch.Tensor
FORMATS = ("none", "int8", "nf4")
BLOCK = 64  # values that share a scale in nf4
OUTLIERS = 6.0  # inputs beyond it are multiplied in 16 bits, as in section 3.2 of the paper (CUDA only)


def quantize(denoiser: torch.nn.Module, kind: str, dtype: torch.dtype, device: torch.device) -> None:
    """Put the weights of the denoiser's linear layers into this format, one after the other, on the device.

    Args:
        kind: `int8` or `nf4`.
        dtype: what the products are computed in; their weights are widened for each.

    Raises MissingPartError where bitsandbytes is not installed.
    """
    library = _library()

    def make(plain: torch.nn.Linear) -> Any:
        layer = _empty(library, plain, kind, dtype)
        if kind == "nf4":
            options = {"quant_type": "nf4", "compress_statistics": False, "blocksize": BLOCK, "module": layer}
            layer.weight = library.nn.Params4bit(plain.weight.data, requires_grad=False, **options).to(device)
        else:
            layer.weight = library.nn.Int8Params(plain.weight.data, requires_grad=False).to(device)
        return layer

    _replace(denoiser, kind, make)


def sketch_quantized(denoiser: torch.nn.Module, kind: str, dtype: torch.dtype) -> None:
    """`quantize` for a denoiser on the device `meta`: layers of the same kind and size, without data."""
    library = _library()

    def make(plain: torch.nn.Linear) -> Any:
        layer = _empty(library, plain, kind, dtype)
        blank(layer, torch.device("meta"))
        return layer

    _replace(denoiser, kind, make)


def narrower(kind: str) -> list[str]:
    """Formats that hold less than this one (`none` included) and can be had here, the widest first."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return []
    return list(FORMATS[FORMATS.index(kind) + 1 :])


def is_quantized(module: torch.nn.Module) -> bool:
    """Whether it is a layer that `quantize` made."""
    return type(module).__name__ in ("Linear4bit", "Linear8bitLt") and isinstance(module, torch.nn.Linear)


def blank(layer: Any, device: torch.device) -> None:
    """Give a quantized layer a weight without values on the device; a plain parameter, as tensors without data are."""
    rows, columns = layer.out_features, layer.in_features
    if type(layer).__name__ == "Linear4bit":
        count = rows * columns
        scales, code = torch.empty(-(-count // BLOCK), device=device), torch.empty(16, device=device)
        packed = torch.empty((count + 1) // 2, 1, dtype=torch.uint8, device=device)
        weight: Any = torch.nn.Parameter(packed, requires_grad=False)
        weight.quant_type, weight.compress_statistics = "nf4", False
        weight.quant_state = _library().functional.QuantState(
            scales, torch.Size((rows, columns)), code, BLOCK, "nf4", dtype=layer.compute_dtype
        )
    else:
        whole = torch.empty(rows, columns, dtype=torch.int8, device=device)
        weight = torch.nn.Parameter(whole, requires_grad=False)
        weight.CB = weight.SCB = None
        layer.state.CB, layer.state.SCB = whole, torch.empty(rows, device=device)
    layer.weight = weight


def scales_of(denoiser: torch.nn.Module) -> Iterator[Tensor]:
    """What the quantized layers hold beside their parameters."""
    for module in denoiser.modules():
        layer: Any = module
        if not is_quantized(module):
            continue
        state = getattr(layer.weight, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code)
        else:
            yield layer.weight.SCB if layer.state.SCB is None else layer.state.SCB


def _empty(library: Any, plain: torch.nn.Linear, kind: str, dtype: torch.dtype) -> Any:
    """A layer of the same shape with the same bias, and a weight without data."""
    shape, biased = (plain.in_features, plain.out_features), plain.bias is not None
    if kind == "nf4":
        layer = library.nn.Linear4bit(*shape, bias=biased, compute_dtype=dtype, quant_type="nf4", device="meta")
        layer.support_avx512bf16_for_cpu = False  # weights packed for that have no backward pass
    else:
        options = {"has_fp16_weights": False, "threshold": OUTLIERS, "device": "meta"}
        layer = library.nn.Linear8bitLt(*shape, bias=biased, **options)
    layer.bias = plain.bias
    return layer.train(plain.training)


def _replace(denoiser: torch.nn.Module, kind: str, make: Callable[[torch.nn.Linear], Any]) -> None:
    kept = set(getattr(denoiser, "_keep_in_fp32_modules", None) or ())
    for name, module in list(denoiser.named_modules()):
        if type(module) is torch.nn.Linear and not kept & set(name.split(".")):
            parent, _, own = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), own, make(module))
    told: Any = denoiser  # PEFT chooses its layers by this
    told.is_loaded_in_4bit, told.is_loaded_in_8bit = kind == "nf4", kind == "int8"


def _library() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of what it does by itself
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError:
        raise MissingPartError("bitsandbytes is not installed", "pip install 'likeness-trainer[gpu]'") from None
