"""The LoRA settings that diffusers reads out of a file's metadata, checked before it may, and written for it.

diffusers hands `lora_adapter_metadata` to PEFT as it is. There some settings take a module to import, a pattern to
match names by or a rank to make room for, so only the plain ones are let through.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.errors import IntegrityError

KEY = "lora_adapter_metadata"
COMPONENTS = ("text_encoder_2", "text_encoder_3", "text_encoder", "transformer", "unet")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,300}")
MAX_BYTES = 4 * 2**20
MAX_RANK = 4096
# Said of how it was trained; loading does not depend on it.
HARMLESS = {
    "base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version", "inference_mode", "lora_dropout",
    "fan_in_fan_out", "megatron_core", "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip


def check_names(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises IntegrityError for a name that PEFT would read as a pattern, and for an absurd rank."""
    for name, tensor in tensors.items():
        if not PLAIN_NAME.fullmatch(name):
            raise IntegrityError(f"{path}: {name[:80]!r} is no name of a layer")
        if "lora" in name and tensor.ndim > 1 and min(tensor.shape[:2]) > MAX_RANK:
            raise IntegrityError(f"{path}: {name} is no factor of a LoRA: {tuple(tensor.shape)}")


def read_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The settings as `component.key: value`, {} where the file has none.

    Raises IntegrityError for settings that do more than scale a LoRA or DoRA, and for those that cannot be read.
    """
    text = metadata.get(KEY, "")
    if not text:
        return {}
    try:
        said = json.loads(text) if len(text) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise IntegrityError(f"{path}: its {KEY} cannot be read", "bring the file again from where it came")
    for full, value in said.items():
        if not _usable(full.rpartition(".")[2], value):
            said_so = f"{full[:80]}={str(value)[:60]}"
            raise IntegrityError(f"{path}: its {KEY} asks for {said_so}, which is no plain LoRA or DoRA")
    return said


def alpha_of(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """The alpha that a layer's update is scaled by, over its rank: what the settings say, else the rank.

    With `use_rslora` the update is scaled by alpha / sqrt(rank) (arXiv 2312.03732, theorem 3.2).
    """
    component, _, name = module.partition(".")
    patterns = settings.get(f"{component}.alpha_pattern") or {}
    alpha = settings.get(f"{component}.lora_alpha", rank)
    for key, value in patterns.items():
        plain = key.removeprefix("^")
        if name == plain or (not key.startswith("^") and name.endswith(f".{plain}")):
            alpha = value
            break
    return float(alpha * rank**0.5 if settings.get(f"{component}.use_rslora") else alpha)


def write_settings(layers: Mapping[str, tuple[int, float]], doras: Collection[str] = ()) -> str:
    """The metadata value that makes diffusers use these ranks and alphas; `layers` is by module, as `unet.conv_in`.

    `doras` are the components that are a DoRA.
    """
    said: dict[str, Any] = {}
    for component in COMPONENTS:
        # Text encoders have their modules with or without this prefix, by the version of transformers.
        own = {
            name.removeprefix(f"{component}.").removeprefix("text_model."): numbers
            for name, numbers in layers.items()
            if name.startswith(f"{component}.")
        }
        if not own:
            continue
        rank = Counter(rank for rank, _ in own.values()).most_common(1)[0][0]
        alpha = Counter(alpha for _, alpha in own.values()).most_common(1)[0][0]
        anchor = "" if component.startswith("text_encoder") else "^"
        values = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {anchor + name: r for name, (r, _) in own.items() if r != rank},
            "alpha_pattern": {anchor + name: a for name, (_, a) in own.items() if a != alpha},
            "target_modules": sorted(own),
            "use_dora": component in doras,
            "lora_bias": False,
        }
        said |= {f"{component}.{key}": value for key, value in values.items()}
    return json.dumps(said, sort_keys=True, separators=(",", ":"))


def _usable(key: str, value: Any) -> bool:
    if key == "r":
        return type(value) is int and 0 < value <= MAX_RANK
    if key == "lora_alpha":
        return _is_alpha(value)
    if key in {"rank_pattern", "alpha_pattern"}:
        good = _is_alpha if key == "alpha_pattern" else (lambda v: type(v) is int and 0 < v <= MAX_RANK)
        plain = isinstance(value, dict) and all(PLAIN_NAME.fullmatch(name.removeprefix("^")) for name in value)
        return plain and all(good(number) for number in value.values())
    if key == "target_modules":
        return isinstance(value, list) and all(isinstance(v, str) and PLAIN_NAME.fullmatch(v) for v in value)
    if key == "bias":
        return bool(value == "none")
    if key == "init_lora_weights":
        return isinstance(value, bool) or bool(value == "gaussian")
    if key in {"use_rslora", "use_dora"}:
        return isinstance(value, bool)
    if key == "runtime_config":
        return not value or bool(value == {"ephemeral_gpu_offload": False})
    return key in HARMLESS or not value


def _is_alpha(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
