"""Why a number of the scorecard is not there: each null has a reason, and none is filled in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

UNSEALED = "no photo is sealed to compare with"
NOT_TOLD_APART = "the person's own photos are no more alike than strangers are to them"
NOT_KNOWN = "the adapter was made elsewhere: what it was fitted on, and at what cost, is not known"
NOT_ASKED = "what is asked for has no word that can be measured in a picture"
GATE_BLIND = "the gate has no table of strangers, or does not tell the person from them"
NOT_MEASURED = "not measured"
# By the path of the number, most special first; `[]` stands for any row of a list.
REASONS = (
    ("identity.style_mean", "no prompt of the set asks for a style"),
    ("identity.of_ceiling_gate", GATE_BLIND),
    ("identity.of_ceiling", NOT_TOLD_APART),
    ("leak.sexes", "nothing that is shipped tells men from women for this judge"),
    ("copying.any_excess", "all photos are one shot: nothing shows how near two shots are"),
    ("copying.", NOT_KNOWN),
    ("cost.", NOT_KNOWN),
    ("prompt.", NOT_ASKED),
    ("by_prompt[].prompt_score", NOT_ASKED),
    ("checkpoints[].prompt", NOT_ASKED),
    ("checkpoints[].of_ceiling_select", GATE_BLIND),
    ("diversity.", "one seed: a prompt has no two pictures to compare"),
    ("detail.", "no picture has a face of 32 pixels or more"),
)
OF_FACES = (
    "identity.", "leak.", "sensitivity.", "detection_rate", "detail.", "by_prompt[].identity", "by_prompt[].ci95",
    "by_prompt[].detected",
)  # fmt: skip
SEALED_ONLY = ("identity.", "copying.", "leak.", "sensitivity.", "by_prompt[].identity", "by_prompt[].ci95")


def why_null(card: dict[str, Any], faceless: str | None = None) -> dict[str, str]:
    """The reason for each null of the card, by its path, such as `diversity.adapter` or `by_prompt[].prompt_score`.

    `leak.beside` and its like are left out where `leak.beside_reason` says it. `faceless`: why none was looked for.
    """
    sealed = bool(card["photos"]["report"])
    said = {}
    for path in dict.fromkeys(_nulls(card)):
        if path.startswith("leak.beside"):
            continue
        if faceless and path.startswith(OF_FACES):
            said[path] = faceless
        elif not sealed and path.startswith(SEALED_ONLY):
            said[path] = UNSEALED
        else:
            said[path] = next((reason for start, reason in REASONS if path.startswith(start)), NOT_MEASURED)
    return said


def _nulls(value: Any, path: str = "") -> Iterator[str]:
    """The path of every None in it."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _nulls(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for inner in value:
            # Both ends of an interval are one number's.
            yield from _nulls(inner, f"{path}[]" if isinstance(inner, dict) else path)
