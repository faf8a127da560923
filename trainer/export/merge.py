"""An adapter fused into its base: a whole diffusers folder that needs no adapter."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainer.adapter import read_whole, tensors_sha256, write_adapter
from trainer.errors import IntegrityError, MissingPartError, UsageError
from trainer.layouts.layer import Layer, Layers, grown
from trainer.layouts.layers import read_layers
from trainer.layouts.words import alone, bundled

CONFIGS = {".json", ".txt", ".model", ".md"}  # .model: a tokenizer's; nothing else is copied, above all no pickle
NOTE = "merged.json"
VECTORS = "learned_embeds.safetensors"  # diffusers' name for them in a folder


def merge(file: Path, base: Path, out: Path, scale: float = 1.0) -> dict[str, Any]:
    """Write `base` with the adapter in its weights into the new folder `out`; both inputs are only read.

    Every weight keeps its number format. `lost` is what its rounding takes from the update, as a share of the
    update's norm: `mean` and `max` over the layers, 0 for an exact sum. Vectors of a new word lie in the folder as
    `learned_embeds.safetensors`, which `load_textual_inversion` takes by itself: no tokenizer is changed.

    Raises:
        UsageError: `base` is no diffusers folder, or `out` is there already.
        MissingPartError: a component's weights are no safetensors.
        IntegrityError: the adapter does not fit the base, naming the layer; nothing is left behind.
    """
    _check_folders(file, base, out)
    tensors, words, metadata = read_whole(file)
    layers = read_layers(file, tensors, metadata)
    if len(words) > 1:
        raise IntegrityError(f"{file}: it has {len(words)} new words, a merged base can have the vectors of one")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        lost = _write(file, layers, base, part, scale)
        said = {"schema": 1, "adapter_sha256": tensors_sha256(tensors | bundled(words)), "scale": scale}
        if words:
            write_adapter(part / VECTORS, alone(words), {"format": "pt"})
            said["word"] = next(iter(words))
        (part / NOTE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {
        "file": str(file),
        "base": str(base),
        "out": str(out),
        "scale": scale,
        "layers": len(layers),
        "word": said.get("word"),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "lost": {"mean": sum(lost.values()) / len(lost), "max": max(lost.values())},
    }


def _write(file: Path, layers: Layers, base: Path, part: Path, scale: float) -> dict[str, float]:
    """Copy the folder with the layers' weights grown; what each layer lost. Every layer finds its weight or raises."""
    lost: dict[str, float] = {}
    for source in sorted(base.rglob("*")):
        if not source.is_file() or any(piece.startswith(".") for piece in source.relative_to(base).parts):
            continue
        target = part / source.relative_to(base)
        if source.suffix == ".safetensors" and source.parent.parent == base:
            if _is_variant(source):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if any(module.startswith(f"{source.parent.name}.") for module in layers):
                lost |= _grow(file, layers, source, target, scale)
            else:
                shutil.copyfile(source, target)
        elif source.suffix in CONFIGS:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    left = sorted(layers.keys() - lost.keys())
    if left:
        _explain(file, left[0], len(left), base)
    return lost


def _grow(file: Path, layers: Layers, source: Path, target: Path, scale: float) -> dict[str, float]:
    """One file of weights, its layers' updates added; what rounding took from each."""
    lost = {}
    try:
        with safe_open(source, framework="pt") as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
            metadata = weights.metadata()
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{source} cannot be read: {error}", "bring the base again") from None
    for module, layer in layers.items():
        component, _, name = module.partition(".")
        if component != source.parent.name:
            continue
        # A text encoder's modules have this prefix or not, by the version that saved them.
        key = next((k for k in (f"{name}.weight", f"{name.removeprefix('text_model.')}.weight") if k in tensors), None)
        if key is not None:
            tensors[key], lost[module] = _grown(file, module, tensors[key], layer, scale)
    save_file(tensors, target, metadata)
    return lost


def _grown(file: Path, module: str, weight: torch.Tensor, layer: Layer, scale: float) -> tuple[torch.Tensor, float]:
    shape = (layer.up.shape[0], *layer.down.shape[1:])
    if math.prod(shape) != weight.numel() or shape[:2] != weight.shape[:2]:
        raise IntegrityError(
            f"{file}: {module} is {shape}, the base's weight {tuple(weight.shape)}",
            "merge into the base that the adapter was made for",
        )
    exact = grown(layer, weight.reshape(shape), scale).reshape(weight.shape)  # a 1x1 convolution kept as a matrix
    rounded = exact.to(weight.dtype)
    size = float((exact - weight.double()).norm())
    return rounded, float((rounded.double() - exact).norm()) / size if size else 0.0


def _is_variant(source: Path) -> bool:
    """Whether this is a second copy of the weights, such as model.fp16.safetensors; shards are no copies."""
    plain = source.with_name(f"{source.name.split('.')[0]}.safetensors")
    return plain != source and plain.is_file()


def _explain(file: Path, first: str, count: int, base: Path) -> None:
    folder = base / first.partition(".")[0]
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise MissingPartError(f"{folder} holds no safetensors weights", "save the base as safetensors")
    raise IntegrityError(
        f"{file}: {count} layers have no weight in {base}, the first is {first}",
        "merge into the base that the adapter was made for",
    )


def _check_folders(file: Path, base: Path, out: Path) -> None:
    if not file.is_file():
        raise UsageError(f"{file}: no such file", "give the path of a .safetensors adapter")
    if not (base / "model_index.json").is_file():
        raise UsageError(f"{base} is no diffusers folder: it has no model_index.json", "give the base's folder")
    if out.exists():
        raise UsageError(f"{out} is there already", "choose another --out")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out.parent}: no such folder", "make the folder, or choose another --out")
    if out.absolute().is_relative_to(base.absolute()):
        raise UsageError(f"{out} lies inside the base", "choose another --out")
