"""Adapter files: safetensors and their metadata, read and written in one place.

The header is written with sorted keys, so equal weights and metadata give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from trainer.errors import IntegrityError
from trainer.layouts.header import check_header
from trainer.layouts.layers import FIRST_HALVES, layout_of
from trainer.layouts.words import SHA256, Words, alone, beside, bundled, read_beside, split_words

Tensors = dict[str, torch.Tensor]
TEACHER = "likeness.taught_by"  # metadata
LENGTHS = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
SOMEWHERE = Path("FOLDER/THIS-FILE.safetensors")  # an adapter, in lines that say no name


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


def read_whole(path: Path) -> tuple[Tensors, Words, dict[str, str]]:
    """The adapter's tensors, the vectors of its new words, which may lie in a file beside it, and the metadata.

    Raises IntegrityError as `read_adapter` does, and where those vectors are not there or are not the adapter's.
    """
    tensors, metadata = read_adapter(path)
    tensors, words = split_words(path, tensors)
    if words or SHA256 not in metadata:
        return tensors, words, metadata
    file, hint = beside(path), "keep both files together: without its word the adapter is another"
    if not file.is_file():
        raise IntegrityError(f"{path}: the vectors of its new word are not beside it, in {file.name}", hint)
    words = read_beside(file, read_adapter(file)[0], metadata.get("likeness.trigger", ""))
    if tensors_sha256(bundled(words)) != metadata[SHA256]:
        raise IntegrityError(f"{file} holds other vectors than {path.name} was made with", hint)
    return tensors, words, metadata


def write_words(adapter: Path, words: Words) -> dict[str, str]:
    """Write the vectors beside an adapter; what its metadata must say of them. Nothing of either where there are none.

    Raises IntegrityError for vectors of several words: such a file has one.
    """
    if not words:
        return {}
    if len(words) > 1:
        raise IntegrityError(f"{adapter}: it has {len(words)} new words", "write it in kohya's layout, which holds all")
    write_adapter(beside(adapter), alone(words), {"format": "pt"})
    ((word, own),) = words.items()
    count = str(len(next(iter(own.values()))))
    return {"likeness.trigger": word, "likeness.new_tokens": count, SHA256: tensors_sha256(bundled(words))}


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
    """What an adapter file is: layout, kind, rank, new words, size, number format, hash of the weights, metadata."""
    tensors, metadata = read_adapter(path)
    layers, words = split_words(path, tensors)
    down = [tensor for name, tensor in tensors.items() if name.removesuffix(".weight").endswith(FIRST_HALVES)]
    return {
        "file": str(path),
        "layout": layout_of(layers),
        "kind": kind_of(layers),
        "ranks": sorted({tensor.shape[0] for tensor in down if tensor.ndim}),
        "words": {word: {key: list(tensor.shape) for key, tensor in own.items()} for word, own in words.items()},
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


def loading_lines(base: str, adapter: Path, prompt: str, guidance: float, word: Sequence[str] = ()) -> str:
    """The lines of Python that load an adapter, and with `word` its new one, into a pipeline and make a picture."""
    call = f'DiffusionPipeline.from_pretrained("{base}")'
    if base.endswith(".safetensors"):
        call = f'StableDiffusionPipeline.from_single_file("{base}")  # SDXL: StableDiffusionXLPipeline'
    return (
        f"pipe = diffusers.{call}\n"
        f'pipe.load_lora_weights("{adapter.parent}", weight_name="{adapter.name}")\n'
        + "".join(f"{line}\n" for line in word)
        + f'pipe(prompt="{prompt}", guidance_scale={guidance:g}).images[0].save("picture.png")'
    )


def tensors_sha256(tensors: Tensors) -> str:
    """SHA-256, hex, over names, shapes, types and values, whatever the file around them says."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
