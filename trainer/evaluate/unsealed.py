"""The scorecard where no photo could be sealed: every number that needs one is null, and the rest is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.evaluate.gallery import Gallery
from trainer.evaluate.nulls import UNSEALED

IDENTITY = (
    "mean", "ceiling", "floor_strangers", "floor_base", "of_ceiling", "of_ceiling_base", "of_ceiling_gate", "pass_rate",
    "threshold", "false_accept_rate", "per_photo_std", "style_mean",
)  # fmt: skip
LEAK = (
    "untriggered", "untriggered_base", "excess", "beside", "beside_base", "beside_excess", "sexes", "sexes_base",
    "sexes_change",
)  # fmt: skip


def likeness(adapter: Gallery, scores: Sequence[float | None]) -> dict[str, Any]:
    """The sections `identity`, `copying`, `leak`, `sensitivity`, `by_prompt` and `by_pose`, without a likeness."""
    detected = adapter.seen.detected.reshape(len(adapter.prompts), -1).mean(1)
    unknown: list[None] = [None, None]
    return {
        "identity": dict.fromkeys(IDENTITY) | {"ci95": unknown, "of_ceiling_ci95": unknown},
        "copying": dict.fromkeys(("to_fit_photos", "excess", "any_excess")),
        "leak": dict.fromkeys(LEAK) | {"beside_reason": UNSEALED},
        "sensitivity": {"paraphrase_std": None},
        "by_prompt": [
            {
                "prompt": asked.text,
                "group": asked.group,
                "identity": None,
                "ci95": unknown,
                "detected": float(detected[row]),
                "prompt_score": scores[row],
            }
            for row, asked in enumerate(adapter.prompts)
        ],
        "by_pose": [],
    }
