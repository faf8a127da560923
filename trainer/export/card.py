"""The model card beside the adapter: how to load it, what it scored, what made it. No name, no photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from trainer.adapter import loading_lines

TEMPLATE = """---
{front}
---

# A likeness adapter for {base}

A LoRA of one person. Say `{trigger} {class_word}` in the prompt.

```python
{snippet}
```

| measured on {report} photos that the training never saw | |
|---|---|
| likeness (mean cosine, {judge}) | {mean} (95% {low} to {high}) |
| ceiling: the person's own photos | {ceiling} |
| floor: strangers / the base alone | {floor} / {floor_base} |
| of the ceiling | {share} |
| a face is found in | {detection} |
| copying (nearness to fitted photos above that of a new photo) | {copying} |
| leak (likeness without the trigger, above the base's) | {leak} |
| verdict | {verdict} |

{reasons}
Made by Likeness {version} with recipe `{recipe}` ({recipe_hash}), checkpoint of step {step}. The person in these
pictures must have agreed to them; do not use the adapter to deceive.
"""


def model_card(card: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown with a Hugging Face header; `card` is the scorecard, `facts` what export knows besides."""
    identity = card["identity"]
    front = ModelCardData(library_name="diffusers", tags=["lora", "likeness"], base_model=None)
    reasons = "".join(f"- {reason}\n" for reason in card["reasons"])
    return TEMPLATE.format(
        front=front.to_yaml(),
        base=card["base"]["name"],
        report=card["photos"]["report"],
        judge=card["judge"]["name"],
        mean=_number(identity["mean"]),
        low=_number(identity["ci95"][0]),
        high=_number(identity["ci95"][1]),
        ceiling=_number(identity["ceiling"]),
        floor=_number(identity["floor_strangers"]),
        floor_base=_number(identity["floor_base"]),
        share=_number(identity["of_ceiling"]),
        detection=f"{card['detection_rate']:.0%}",
        copying=_number(card["copying"]["excess"]),
        leak=_number(card["leak"]["excess"]),
        verdict=card["verdict"],
        snippet=loading_lines(
            "BASE", Path("FOLDER/THIS-FILE.safetensors"), card["by_prompt"][0]["prompt"], card["sampling"]["guidance"]
        ),
        reasons=reasons + "\n" if reasons else "",
        recipe=card["recipe"]["name"],
        recipe_hash=card["recipe"]["sha256"][:12],
        **facts,
    )


def _number(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.3f}"
