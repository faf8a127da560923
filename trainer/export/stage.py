"""export: write the chosen checkpoint as files, load them again, and say what they are."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainer.adapter import (
    SOMEWHERE,
    Tensors,
    kind_of,
    read_adapter,
    scaled,
    stamped,
    tensors_sha256,
    write_adapter,
    write_words,
)
from trainer.bases.base import Base
from trainer.errors import IntegrityError
from trainer.export.card import model_card
from trainer.export.metadata import adapter_metadata
from trainer.export.parity import Judge, Parity, check_parity, check_twin, worst
from trainer.kinds import PERSON, Kind
from trainer.layouts.layers import read_layers, to_kohya
from trainer.layouts.words import beside, bundled, split_words
from trainer.records import Checkpoint
from trainer.run import sha256_of, write_json, write_text

VERSION = 4
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Settings:
    """What export needs, flat; meanings as in `trainer.sections.ExportSection`."""

    file_stem: str
    trigger: str
    class_word: str
    rank: int
    dtype: str
    kohya: bool
    licence: str
    kind: Kind = PERSON
    taught_by: str | None = None  # the face engine of the identity loss


def export(
    checkpoint: Checkpoint, base: Base, evaluated: Path, settings: Settings, judge: Judge | None, folder: Path
) -> dict[str, Any]:
    """Write the adapter at its strength, the vectors of its word, its kohya twin, the card and the manifest.

    Returns the stage's facts.

    `base` was just read from its files. Raises IntegrityError, naming the layer, when a written file is not taken
    whole or does not make the scored pictures or their likeness.
    """
    card = json.loads((evaluated / "scorecard.json").read_text(encoding="utf-8"))
    tensors, _ = read_adapter(checkpoint.adapter)
    if checkpoint.strength != 1.0:
        tensors = scaled(tensors, checkpoint.strength)
    whole = {name: tensor.to(DTYPES[settings.dtype]) for name, tensor in tensors.items()}
    tensors, words = split_words(checkpoint.adapter, whole)
    facts = _facts(checkpoint, base, settings) | {"dora": kind_of(tensors) == "dora"}
    adapter, twin = (folder / f"{settings.file_stem}{suffix}" for suffix in (".safetensors", ".kohya.safetensors"))
    facts["word"] = base.word_code(beside(SOMEWHERE), words)
    metadata = adapter_metadata(card, facts) | write_words(adapter, words)
    write_adapter(adapter, tensors, stamped(tensors, metadata))
    parity = {adapter.name: check_parity(base, adapter, evaluated, judge)}
    renamed, reason = _kohya(adapter, tensors, base.name) if settings.kohya else (None, "")
    if renamed:
        renamed |= bundled(words)
        write_adapter(twin, renamed, stamped(renamed, metadata))
        parity[twin.name] = check_twin(base, twin, whole, evaluated, judge)
    write_text(folder / "README.md", model_card(card, facts))
    write_manifest(folder, card, whole, parity)
    said: dict[str, Any] = {
        "step": checkpoint.step,
        "strength": checkpoint.strength,
        "parity_levels": worst(parity.values()),
        "bytes": adapter.stat().st_size,
    }
    if words:
        said["word"] = facts["word"]
    return said | ({"no_kohya": reason} if reason else {})


def _kohya(adapter: Path, tensors: Tensors, base: str) -> tuple[Tensors | None, str]:
    """The kohya twin, or None and why there can be none: not every base's layers have names there."""
    try:
        return to_kohya(read_layers(adapter, tensors, {}), base), ""
    except IntegrityError as error:
        return None, error.message


def _facts(checkpoint: Checkpoint, base: Base, settings: Settings) -> dict[str, Any]:
    """What the card and the metadata say besides the scorecard."""
    return {
        "step": checkpoint.step,
        "strength": checkpoint.strength,
        "version": version("likeness-trainer"),
        "kind": settings.kind,
        "trigger": settings.trigger,
        "class_word": settings.class_word,
        "rank": settings.rank,
        "licence": settings.licence,
        "taught_by": settings.taught_by,
        "size_px": base.size_px,
        "prediction": base.schedule.prediction,
        "base_model": hub_name(base),
    }


def hub_name(base: Base) -> str:
    """The base's name on the hub; for a folder of this machine its family, since paths stay here."""
    at_hand = Path(base.folder).exists() or not HUB_NAME.fullmatch(base.folder)
    return base.name if at_hand else base.folder


def write_manifest(folder: Path, card: dict[str, Any], tensors: Tensors, parity: dict[str, Parity]) -> None:
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
            "parity_levels": worst(parity.values()),
            "parity": {name: one.levels for name, one in parity.items()},
            "likeness_change": {name: one.likeness for name, one in parity.items()},
            "base": card["base"],
            "recipe": card["recipe"],
            "of_ceiling": card["identity"]["of_ceiling"],
            "verdict": card["verdict"],
        },
    )
