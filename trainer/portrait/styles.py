"""What a portrait can be asked to look like, in the words that a base understands."""

from __future__ import annotations

from trainer.errors import UsageError

DEFAULT_STYLE = "headshot"
# What is added to "photo of <who>", by style and prompt set; several are taken in turn.
STYLES: dict[str, dict[str, tuple[str, ...]]] = {
    "headshot": {
        "attributes": ("facing front, close-up, even light, plain background",),
        "scenes": ("professional headshot, looking at the camera, soft even light, plain gray background",),
    },
    "smile": {
        "attributes": ("smiling, facing front, close-up",),
        "scenes": ("smiling warmly, close-up portrait, soft daylight",),
    },
    "sides": {
        "attributes": ("turned left, close-up", "turned right, close-up"),
        "scenes": ("looking to the left, close-up portrait", "looking to the right, close-up portrait"),
    },
    "light": {
        "attributes": ("close-up, light from the left", "close-up, light from the right", "close-up, bright"),
        "scenes": ("soft window light from the left", "lit by a low evening sun", "at night under a street lamp"),
    },
    "black-and-white": {
        "attributes": ("close-up, black and white",),
        "scenes": ("black and white film photograph, close-up portrait",),
    },
    "everyday": {
        "attributes": (
            "smiling, busy background", "neutral expression, medium shot", "turned left, busy background",
            "smiling, turned right, bright",
        ),
        "scenes": (
            "in a café, smiling", "in a library", "walking on a street in autumn", "on a beach at noon",
            "wearing a dark suit and a white shirt, in an office",
        ),
    },
    "painting": {"scenes": ("oil painting, portrait",)},
}  # fmt: skip


def styles_of(prompt_set: str) -> list[str]:
    """The styles that bases of this prompt set can picture."""
    return [style for style, texts in STYLES.items() if prompt_set in texts]


def style_texts(style: str, prompt_set: str, who: str) -> list[str]:
    """The prompts of a style, for `who` ("ohwx person"). Raises UsageError for one that the base cannot picture."""
    known = styles_of(prompt_set)
    if style not in known:
        raise UsageError(f"no style called {style!r} for this base", f"use one of: {', '.join(known)}; or --prompt")
    return [f"photo of {who}, {extra}" for extra in STYLES[style][prompt_set]]


def own_text(words: str, trigger: str, who: str) -> str:
    """A user's own prompt; where it does not say the trigger, it is what the person is pictured like."""
    asked = words.strip()
    if not asked:
        raise UsageError("the prompt is empty", "say what the portrait shows, such as: --prompt 'smiling, close-up'")
    return asked if trigger in asked.replace(",", " ").split() else f"photo of {who}, {asked}"
