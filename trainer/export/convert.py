"""An adapter that any tool made, in another layout, number format or rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainer.adapter import kind_of, read_whole, stamped, tensors_sha256, write_adapter, write_words
from trainer.errors import IntegrityError, UsageError
from trainer.export.metadata import network
from trainer.export.resize import relative_error, resize
from trainer.layouts.header import SUFFIX
from trainer.layouts.layer import Layers, Tensors
from trainer.layouts.layers import layout_of, read_layers, to_diffusers, to_kohya
from trainer.layouts.settings import KEY
from trainer.layouts.words import SHA256, beside, bundled

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Hashes of other tools over the weights as they were; what one of them needs is written anew.
STALE = ("sshs_legacy_hash", "sshs_model_hash", "modelspec.hash_sha256", KEY, SHA256)
SCORES = ("likeness.of_ceiling", "likeness.verdict")  # measured on the weights as they were


def convert(
    file: Path,
    layout: str | None = None,
    dtype: str | None = None,
    rank: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the adapter anew and say what changed; `file` itself is only read.

    Vectors of a new word go along: in kohya's layout among the tensors, in diffusers' in a file beside.

    Layouts and a wider number format lose nothing. `rounding` is the largest error of a narrower one, relative to the
    largest weight of its tensor; `retained` the share of each layer's energy that a lower rank keeps; `error` what both
    took from each layer, measured on the new one: the norm of the difference over that of the update.

    Raises:
        UsageError: nothing is asked for, or `out` is there and `overwrite` is not set.
        IntegrityError: the file is no whole LoRA or DoRA, a layer has no name in the layout, or a weight does not fit
            the number format.
    """
    if layout is None and dtype is None and rank is None:
        raise UsageError("nothing to convert", "ask for --layout, --dtype or --rank")
    target = out or default_name(file, layout, dtype, rank)
    _check_target(file, target, overwrite)
    tensors, words, metadata = read_whole(file)
    layers = read_layers(file, tensors, metadata)
    resized, retained = resize(layers, rank) if rank else (layers, {})
    cast, rounding = _cast(file, resized, DTYPES[dtype]) if dtype else (resized, 0.0)
    narrowed = {word: _narrowed(file, word, own, DTYPES[dtype]) for word, own in words.items()} if dtype else words
    changed = [module for module in layers if cast[module] is not layers[module]]
    layout = layout or ("kohya" if layout_of(tensors) == "kohya" else "diffusers")
    base = metadata.get("likeness.base", "")
    new, extra = (to_kohya(cast, base), {}) if layout == "kohya" else to_diffusers(cast)
    source = tensors_sha256(tensors | bundled(words))
    said = amended(metadata, cast, extra, source, any(kept < 1 for kept in retained.values()))
    if layout == "kohya":
        new |= bundled(narrowed)
    elif words:
        _check_target(file, beside(target), overwrite)
        said |= write_words(target, narrowed)
    write_adapter(target, new, stamped(new, said))
    return {
        "file": str(file),
        "out": str(target),
        "layout": layout,
        "kind": kind_of(tensors),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in new.values()}),
        "ranks": sorted({layer.rank for layer in cast.values()}),
        "layers": len(cast),
        "rounding": rounding,
        "retained": _over_layers(retained),
        "error": _over_layers({module: relative_error(layers[module], cast[module]) for module in changed}),
        "tensors_sha256": tensors_sha256(new),
    }


def default_name(file: Path, layout: str | None, dtype: str | None, rank: int | None) -> Path:
    """Beside the file: `alice.safetensors` to `alice.kohya.fp16.r8.safetensors`."""
    parts = [part for part in (layout, dtype, f"r{rank}" if rank else None) if part]
    stem = file.name.removesuffix(SUFFIX)
    if layout:
        stem = stem.removesuffix(".kohya").removesuffix(".diffusers")
    return file.with_name(".".join([stem, *parts]) + SUFFIX)


def amended(
    metadata: dict[str, str], layers: Layers, extra: dict[str, str], source_sha256: str, cut: bool
) -> dict[str, str]:
    """The metadata of the new file: everything that still holds, ranks and alphas as they now are, and its source."""
    gone = (*STALE, *(SCORES if cut else ()))
    said = {key: value for key, value in metadata.items() if key not in gone}
    said |= {"format": "pt"} | network(any(layer.lengths is not None for layer in layers.values()))
    said["ss_network_dim"] = _common({layer.rank for layer in layers.values()})
    said["ss_network_alpha"] = _common({layer.alpha for layer in layers.values()})
    return said | extra | {"likeness.converted_from": source_sha256}


def _common(values: set[int] | set[float]) -> str:
    return f"{next(iter(values)):g}" if len(values) == 1 else "Dynamic"  # as kohya's own resizing says it


def _cast(file: Path, layers: Layers, dtype: torch.dtype) -> tuple[Layers, float]:
    """Every tensor in the number format, and the largest rounding error relative to its tensor's largest weight."""
    worst, found = 0.0, {}
    for module, layer in layers.items():
        new: dict[str, Any] = {}
        for part in ("down", "up", "lengths"):
            old = getattr(layer, part)
            if old is None:
                continue
            new[part] = _as(file, module, old, dtype)
            largest = float(old.double().abs().max())
            error = float((new[part].double() - old.double()).abs().max())
            worst = max(worst, error / largest if largest else 0.0)
        found[module] = replace(layer, **new)
    return found, worst


def _as(file: Path, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    new = tensor.to(dtype)
    if not bool(torch.isfinite(new.float()).all()):
        raise IntegrityError(f"{file}: {name} holds weights too large for {dtype}", "use --dtype bf16")
    return new


def _narrowed(file: Path, word: str, own: Tensors, dtype: torch.dtype) -> Tensors:
    """The vectors in that number format; few enough that their rounding is not told."""
    return {key: _as(file, f"the word {word}", tensor, dtype) for key, tensor in own.items()}


def _check_target(file: Path, target: Path, overwrite: bool) -> None:
    if target.suffix != SUFFIX:
        raise UsageError(f"{target}: the name of an adapter ends in {SUFFIX}", f"--out {target.name}{SUFFIX}")
    if not file.is_file():
        raise UsageError(f"{file}: no such file", "give the path of a .safetensors adapter")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder", "make the folder, or choose another --out")
    if target.exists() and (not overwrite or target.samefile(file)):
        raise UsageError(f"{target} is there already", "choose another --out, or pass --overwrite")


def _over_layers(by_layer: dict[str, float]) -> dict[str, Any] | None:
    if not by_layer:
        return None
    values = by_layer.values()
    return {"min": min(values), "mean": sum(values) / len(values), "max": max(values), "by_layer": by_layer}
