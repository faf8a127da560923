"""export: write the chosen checkpoint as files, load them again, and say what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainer.adapter import read_adapter, tensors_sha256, write_adapter
from trainer.bases.base import Base
from trainer.export.card import model_card
from trainer.export.parity import check_parity
from trainer.layouts.layers import read_layers, to_kohya
from trainer.records import Checkpoint
from trainer.run import sha256_of, write_json, write_text

VERSION = 1
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Settings:
    """What export needs, flat; meanings as in `trainer.recipe.ExportSection`."""

    file_stem: str
    trigger: str
    class_word: str
    rank: int
    dtype: str
    kohya: bool


def export(checkpoint: Checkpoint, base: Base, evaluated: Path, settings: Settings, folder: Path) -> dict[str, Any]:
    """Write the adapter, its kohya twin, the card and the manifest; returns the stage's facts.

    Raises IntegrityError when the reloaded adapter does not make the scored pictures.
    """
    card = json.loads((evaluated / "scorecard.json").read_text(encoding="utf-8"))
    tensors, _ = read_adapter(checkpoint.adapter)
    tensors = {name: tensor.to(DTYPES[settings.dtype]) for name, tensor in tensors.items()}
    adapter = folder / f"{settings.file_stem}.safetensors"
    write_adapter(adapter, tensors, adapter_metadata(card, settings))
    worst = check_parity(base, adapter, evaluated)
    if settings.kohya:
        extra = {"ss_network_dim": str(settings.rank), "ss_network_alpha": str(settings.rank)}
        kohya = folder / f"{settings.file_stem}.kohya.safetensors"
        write_adapter(kohya, to_kohya(read_layers(adapter, tensors, {})), adapter_metadata(card, settings) | extra)
    facts = {
        "step": checkpoint.step,
        "version": version("likeness-trainer"),
        "trigger": settings.trigger,
        "class_word": settings.class_word,
    }
    write_text(folder / "README.md", model_card(card, facts))
    write_manifest(folder, card, tensors, worst)
    return {"step": checkpoint.step, "parity_levels": worst, "bytes": adapter.stat().st_size}


def adapter_metadata(card: dict[str, Any], settings: Settings) -> dict[str, str]:
    """What travels inside the file: how to call the person and what was measured; no name, file or embedding."""
    share = card["identity"]["of_ceiling"]
    return {
        "format": "pt",
        "likeness.trigger": settings.trigger,
        "likeness.class_word": settings.class_word,
        "likeness.base": card["base"]["name"],
        "likeness.base_sha256": card["base"]["sha256"],
        "likeness.recipe_sha256": card["recipe"]["sha256"],
        "likeness.of_ceiling": "null" if share is None else f"{share:.4f}",
        "likeness.verdict": card["verdict"],
    }


def write_manifest(folder: Path, card: dict[str, Any], tensors: dict[str, torch.Tensor], worst: int) -> None:
    """manifest.json: every file with its hash, and the weights' own hash, which no metadata changes."""
    files = [
        {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    write_json(
        folder / "manifest.json",
        {
            "schema": 1,
            "files": files,
            "tensors_sha256": tensors_sha256(tensors),
            "parity_levels": worst,
            "base": card["base"],
            "recipe": card["recipe"],
            "of_ceiling": card["identity"]["of_ceiling"],
            "verdict": card["verdict"],
        },
    )
