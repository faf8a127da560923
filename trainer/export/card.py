"""The model card beside the adapter: how to load it, what it scored, what it is for. No name, no photo."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCardData

from trainer.adapter import SOMEWHERE, loading_lines

TEMPLATE = """---
{front}
---

# A likeness adapter for {base}

A LoRA of {learned}. Say `{trigger} {class_word}` in the prompt.

```python
{snippet}
```
{word}
## Score

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

{reasons}## Prompts that were scored

{prompts}

## Intended use and limits

{terms}

It works with the base that it was made for, at {size_px} px, and carries that base's skew. The score holds for this
base, these prompts and {steps} sampling steps at guidance {guidance:g}; other settings, prompts, merges or a second
adapter were not measured.

Made by Likeness {version} with recipe `{recipe}` ({recipe_hash}), checkpoint of step {step}{weaker}, rank {rank}. Base
{base_hash}.
"""
WORD = """
`{trigger}` is a word of its own in the base's CLIP text encoders. Its vectors are in `THIS-FILE.tokens.safetensors`,
and in the kohya file under `bundle_emb.`; without them the adapter is another. A1111 and Forge take them from the
kohya file, or as `embeddings/{trigger}.safetensors`; ComfyUI as that file, where prompts say `embedding:{trigger}`.
"""
SHOWN_PROMPTS = 6


def model_card(card: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown with a Hugging Face header; `card` is the scorecard, `facts` what export knows besides."""
    identity = card["identity"]
    reasons = "".join(f"- {reason}\n" for reason in card["reasons"])
    return TEMPLATE.format(
        front=_front(facts).to_yaml(),
        base=card["base"]["name"],
        base_hash=card["base"]["sha256"][:12],
        report=card["photos"]["report"],
        judge=card["judge"]["name"],
        mean=_number(identity["mean"]),
        low=_number(identity["ci95"][0]),
        high=_number(identity["ci95"][1]),
        ceiling=_number(identity["ceiling"]),
        floor=_number(identity["floor_strangers"]),
        floor_base=_number(identity["floor_base"]),
        share=_number(identity["of_ceiling"]),
        detection="not looked for" if card["detection_rate"] is None else f"{card['detection_rate']:.0%}",
        learned=facts["kind"].learned,
        terms=facts["kind"].terms,
        copying=_number(card["copying"]["excess"]),
        leak=_number(card["leak"]["excess"]),
        verdict=card["verdict"],
        snippet=loading_lines(
            "BASE", SOMEWHERE, card["by_prompt"][0]["prompt"], card["sampling"]["guidance"], facts["word"]
        ),
        word=WORD.format(trigger=facts["trigger"]) if facts["word"] else "",
        reasons=reasons + "\n" if reasons else "",
        prompts="\n".join(f"- {prompt}" for prompt in sample_prompts(card)),
        steps=card["sampling"]["steps"],
        guidance=card["sampling"]["guidance"],
        recipe=card["recipe"]["name"],
        recipe_hash=card["recipe"]["sha256"][:12],
        weaker="" if facts["strength"] == 1.0 else f" with {facts['strength']:.0%} of its change",
        **{name: facts[name] for name in ("trigger", "class_word", "size_px", "version", "step", "rank")},
    )


def sample_prompts(card: dict[str, Any]) -> list[str]:
    """The first prompt of each group that was scored, with its likeness, at most six."""
    first: dict[str, str] = {}
    for row in card["by_prompt"]:
        first.setdefault(row["group"], f"`{row['prompt']}`: {_number(row['identity'])}")
    return list(first.values())[:SHOWN_PROMPTS]


def _front(facts: dict[str, Any]) -> ModelCardData:
    owner = "person" if facts["kind"].has_face else "owner"
    called = f"{facts['trigger']} {facts['class_word']}"
    extra: dict[str, Any] = {"license_name": f"as-agreed-with-the-{owner}"} if facts["licence"] == "other" else {}
    return ModelCardData(
        base_model=facts["base_model"],
        library_name="diffusers",
        license=facts["licence"],
        pipeline_tag="text-to-image",
        tags=["lora", "diffusers", "text-to-image", "likeness", "template:sd-lora"],
        instance_prompt=called,
        inference=False,
        **extra,
    )


def _number(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.3f}"
