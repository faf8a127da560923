"""What of a recipe a stage hangs on, as its fingerprint has it."""

from __future__ import annotations

from typing import Any

from trainer.sections import FitSection, Section

YOUNGER = (
    "text_encoder_rate", "max_aspect", "new_tokens", "token_rate", "token_init", "token_until", "identity_weight",
    "identity_signal", "offload",
)  # fmt: skip
"""Keys younger than stages that still hold: they count only where they are on."""


def decides_fit(chosen: FitSection) -> dict[str, Any]:
    """What of the section a fit hangs on."""
    return decides(chosen, {"trackers"})


def decides(chosen: Section, unused: set[str]) -> dict[str, Any]:
    """What of a section a stage hangs on: all but the keys that are `unused`, and the younger ones that are off."""
    fields = type(chosen).model_fields
    off = {name for name in YOUNGER if name in fields and getattr(chosen, name) == fields[name].default}
    return chosen.model_dump(mode="json", exclude=unused | off)
