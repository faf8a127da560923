"""What travels inside an adapter file: how to call the person, what it was made for, what was measured.

No name, photo, file name or embedding. Keys: `likeness.*` are ours, `modelspec.*` those of Stability AI's
ModelSpec 1.0.1, `ss_*` those of kohya's trainer, as far as tools show them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from trainer.adapter import TEACHER
from trainer.kinds import Kind

# Base family to ModelSpec's architecture and version word, as kohya's trainers write them; others keep their name.
FAMILIES = {
    "sd15": ("stable-diffusion-v1", "sd_v1"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "sd3": ("stable-diffusion-3", "sd3"),
    "flux1": ("flux-1-dev", "flux1"),
    "qwen-image": ("Qwen-Image", "qwen_image"),
    "z-image": ("Z-Image", "z_image"),
}
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


def adapter_metadata(card: dict[str, Any], facts: dict[str, Any]) -> dict[str, str]:
    """Every key of an exported file but the hashes of its weights.

    `card` is the scorecard; `facts` holds trigger, class_word, rank, step, strength, licence, version, size_px,
    prediction, dora, kind and, where an identity loss was used, taught_by.
    """
    called = f"{facts['trigger']} {facts['class_word']}"
    architecture, version_word = FAMILIES.get(card["base"]["name"], (card["base"]["name"],) * 2)
    size, identity = facts["size_px"], card["identity"]
    said = {
        "format": "pt",
        "likeness.version": facts["version"],
        "likeness.trigger": facts["trigger"],
        "likeness.class_word": facts["class_word"],
        "likeness.base": card["base"]["name"],
        "likeness.base_sha256": card["base"]["sha256"],
        "likeness.recipe": card["recipe"]["name"],
        "likeness.recipe_sha256": card["recipe"]["sha256"],
        "likeness.step": str(facts["step"]),
        "likeness.strength": f"{facts['strength']:g}",
        "likeness.judge": card["judge"]["name"],
        "likeness.mean": _number(identity["mean"]),
        "likeness.ceiling": _number(identity["ceiling"]),
        "likeness.of_ceiling": _number(identity["of_ceiling"]),
        "likeness.verdict": card["verdict"],
        "likeness.licence": facts["licence"],
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"A likeness adapter of {called}",
        "modelspec.description": _description(facts["kind"]),
        "modelspec.date": datetime.now(UTC).date().isoformat(),
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.license": facts["licence"],
        "modelspec.trigger_phrase": called,
        "modelspec.usage_hint": f"Say {called} in the prompt.",
        "modelspec.tags": f"lora, likeness, {facts['kind'].name}",
        "ss_network_dim": str(facts["rank"]),
        "ss_network_alpha": str(facts["rank"]),  # alpha / rank is folded into the weights
        "ss_base_model_version": version_word,
        "ss_sd_model_name": card["base"]["name"],
        "ss_resolution": f"({size}, {size})",
        "ss_steps": str(facts["step"]),
        "ss_num_train_images": str(card["photos"]["fit"]),
        "ss_tag_frequency": json.dumps({"likeness": {called: card["photos"]["fit"]}}),
    }
    said |= network(facts["dora"])
    if facts.get("taught_by") is not None:
        said[TEACHER] = facts["taught_by"]
    if facts["prediction"] in PREDICTIONS:
        said["modelspec.prediction_type"] = PREDICTIONS[facts["prediction"]]
    return said


def _description(kind: Kind) -> str:
    return f"A LoRA of {kind.learned}{' who agreed to it' if kind.has_face else ''}."


def network(dora: bool) -> dict[str, str]:
    """Which module of kohya's trainer, or of LyCORIS beside it, has layers of this kind."""
    if not dora:
        return {"ss_network_module": "networks.lora"}
    args = {"algo": "lora", "dora_wd": True, "wd_on_output": True}
    return {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(args)}


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.4f}"
