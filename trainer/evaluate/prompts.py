"""The fixed prompts. What a base can be asked decides the set; seeds are numbered, never drawn."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.errors import UsageError
from trainer.records import Prompt

# Each row: group, what is added to "photo of <who>", the attribute words that the picture must then show.
_ATTRIBUTES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("neutral", "", ()),
    ("neutral", "facing front, even light", ("facing front", "even light")),
    ("expression", "smiling", ("smiling",)),
    ("expression", "neutral expression", ("neutral expression",)),
    ("pose", "turned left", ("turned left",)),
    ("pose", "turned right", ("turned right",)),
    ("light", "light from the left", ("light from the left",)),
    ("light", "light from the right", ("light from the right",)),
    ("light", "bright", ("bright",)),
    ("setting", "plain background", ("plain background",)),
    ("setting", "busy background", ("busy background",)),
    ("style", "black and white", ("black and white",)),
    ("style", "color photo", ("color photo",)),
)
_SCENES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("neutral", "", ()),
    ("neutral", "looking at the camera, plain gray background", ("facing front", "plain background")),
    ("expression", "smiling", ("smiling",)),
    ("expression", "serious", ("neutral expression",)),
    ("light", "soft window light from the left", ("light from the left",)),
    ("light", "at night under a street lamp", ()),
    ("wardrobe", "wearing a dark suit and a white shirt", ()),
    ("wardrobe", "wearing a yellow raincoat", ()),
    ("setting", "in a library", ("busy background",)),
    ("setting", "on a beach at noon", ()),
    ("style", "black and white film photograph", ("black and white",)),
    ("style", "oil painting", ()),
)
# Of a style or brand, for bases that can picture scenes; a base of faces is asked for faces.
_SCENES_OF = {
    "style": (
        "", "a house by a lake", "a bowl of fruit", "a street at night", "a portrait of a woman", "a sleeping dog",
        "an empty room", "a ship in a storm",
    ),
    "brand": (
        "", "on a white table", "on a paper cup", "on a sign above a shop", "held in a hand", "on a beach at noon",
        "black and white film photograph",
    ),
}  # fmt: skip
_SETS = {"attributes": _ATTRIBUTES, "scenes": _SCENES}
# Who stands beside the person, for bases that can picture two; the other one should stay somebody else.
_BESIDE = {"attributes": (), "scenes": ("beside another person", "with a friend", "shaking hands with a stranger")}
# Ways to say the first prompt; a likeness should not hang on one of them.
_PARAPHRASES = ("a photo of {who}", "portrait of {who}", "{who}, photo", "picture of {who}")


def report_prompts(prompt_set: str, who: str) -> list[Prompt]:
    """Every prompt of the set, for `who` ("ohwx person"). Raises UsageError for an unknown set."""
    if prompt_set not in _SETS:
        raise UsageError(f"no prompt set called {prompt_set!r}", f"use one of: {', '.join(_SETS)}")
    return [Prompt(_text(who, extra), group, expects) for group, extra, expects in _SETS[prompt_set]]


def scene_prompts(kind: str, prompt_set: str, who: str) -> list[Prompt]:
    """The prompts of a style or brand, for `who` ("ohwx style"); no attribute of a face is expected of any."""
    if prompt_set == "attributes":
        return [Prompt(prompt.text, prompt.group) for prompt in report_prompts(prompt_set, who)]
    return [Prompt(_text(who, extra), "setting" if extra else "neutral") for extra in _SCENES_OF[kind]]


def select_prompts(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` prompts without style, spread evenly over the others."""
    plain = [prompt for prompt in prompts if prompt.group != "style"]
    count = min(count, len(plain))
    return [plain[index * len(plain) // count] for index in range(count)]


def leak_prompts(prompt_set: str, class_word: str) -> list[Prompt]:
    """The same without the trigger: these should stay strangers."""
    return [
        Prompt(prompt.text, "leak", prompt.expects)
        for prompt in report_prompts(prompt_set, class_word)
        if prompt.group in ("neutral", "expression", "setting")
    ]


def beside_prompts(prompt_set: str, who: str) -> list[Prompt]:
    """The person and somebody else in one picture; none where the base makes one person a picture."""
    return [Prompt(_text(who, extra), "leak") for extra in _BESIDE[prompt_set]]


def paraphrases(who: str) -> list[Prompt]:
    """Other words for the plain prompt."""
    return [Prompt(text.format(who=who), "paraphrase") for text in _PARAPHRASES]


def _text(who: str, extra: str) -> str:
    return f"photo of {who}, {extra}" if extra else f"photo of {who}"
