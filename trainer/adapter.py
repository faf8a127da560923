"""Adapter files: safetensors and their metadata, read and written in one place.

The header is written with sorted keys, so equal weights and metadata give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from trainer.errors import IntegrityError
from trainer.layouts.header import check_header
from trainer.layouts.layers import layout_of

Tensors = dict[str, torch.Tensor]
TEACHER = "likeness.taught_by"  # metadata
LENGTHS = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
FIRST_HALVES = ("lora_A.weight", "lora_down.weight", "lora.down.weight", "lora_linear_layer.down.weight")


def write_adapter(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Write tensors and metadata, whole or not at all; parents exist already."""
    data = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}, metadata)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:  # the library writes it in a random order
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text + data[8 + length :])
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def read_adapter(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Every tensor and the metadata.

    Raises IntegrityError for a file that is not whole safetensors, claims more than `layouts.header` allows or holds a
    weight that is no number.
    """
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path} is not a readable adapter: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise IntegrityError(
                f"{path}: {name} holds NaN or infinity", "the fit that made it diverged: do not use it"
            )
    return tensors, metadata


def teacher_in(path: Path) -> str | None:
    """The face engine by whose embeddings an identity loss taught the adapter; None where its metadata names none."""
    return read_adapter(path)[1].get(TEACHER)


def stamped(tensors: Tensors, metadata: dict[str, str]) -> dict[str, str]:
    """The metadata with the hash of the weights' bytes, under the names by which other tools look it up."""
    data = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
    (length,) = struct.unpack("<Q", data[:8])
    digest = hashlib.sha256(data[8 + length :]).hexdigest()
    return metadata | {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}


def describe(path: Path) -> dict[str, Any]:
    """What an adapter file is: layout, kind, rank, size, number format, hash of the weights, and its metadata."""
    tensors, metadata = read_adapter(path)
    down = [tensor for name, tensor in tensors.items() if name.endswith(FIRST_HALVES)]
    return {
        "file": str(path),
        "layout": layout_of(tensors),
        "kind": kind_of(tensors),
        "ranks": sorted({tensor.shape[0] for tensor in down if tensor.ndim}),
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        "tensors_sha256": tensors_sha256(tensors),
        "metadata": metadata,
    }


def kind_of(tensors: Tensors) -> Literal["lora", "dora"]:
    """By its names alone: whether any layer has lengths (arXiv 2402.09353)."""
    return "dora" if any(name.endswith(LENGTHS) for name in tensors) else "lora"


def scaled(tensors: Tensors, strength: float) -> Tensors:
    """The adapter with this share of its change to the base, in the names that a checkpoint has."""
    return {name: tensor * strength if ".lora_B." in name else tensor for name, tensor in tensors.items()}


def loading_lines(base: str, adapter: Path, prompt: str, guidance: float) -> str:
    """The three lines of Python that load an adapter into a diffusers pipeline and make a picture."""
    call = f'DiffusionPipeline.from_pretrained("{base}")'
    if base.endswith(".safetensors"):
        call = f'StableDiffusionPipeline.from_single_file("{base}")  # SDXL: StableDiffusionXLPipeline'
    return (
        f"pipe = diffusers.{call}\n"
        f'pipe.load_lora_weights("{adapter.parent}", weight_name="{adapter.name}")\n'
        f'pipe(prompt="{prompt}", guidance_scale={guidance:g}).images[0].save("picture.png")'
    )


def tensors_sha256(tensors: Tensors) -> str:
    """SHA-256, hex, over names, shapes, types and values, whatever the file around them says."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
