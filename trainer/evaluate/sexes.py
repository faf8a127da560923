"""Do other people stay the men and women that were asked for? An adapter that leaks turns them into the person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from trainer.evaluate.gallery import Gallery
from trainer.records import Floats, Prompt

LINES = Path(__file__).resolve().parent / "sexes.safetensors"  # fitted by scripts/base/train_probe.py
MAN, WOMAN = "man", "woman"


def line_of(engine: str) -> Floats | None:
    """(d + 1,) weights and offset of the line between men, below 0, and women; None where that embedder has none."""
    return load_file(LINES).get(engine)


def sex_prompts() -> list[Prompt]:
    """Men and women who are not the person: without the trigger, with and without an expression."""
    looks = ("", ", smiling", ", facing front")
    return [Prompt(f"photo of {word}{look}", "leak", (word,)) for word in (MAN, WOMAN) for look in looks]


def as_asked(gallery: Gallery, line: Floats) -> float:
    """Share, 0 to 1, of the pictures whose face lies on its prompt's side of the line; without a face it lies on none.

    The line is least squares on the labels 1 and -1 (Fisher's discriminant for two classes; Duda, Hart & Stork,
    Pattern Classification, 2001, section 5.8.2).
    """
    seen = gallery.seen
    if not any(seen.faces):
        return 0.0
    asked = np.repeat([WOMAN in prompt.expects for prompt in gallery.prompts], len(gallery.pictures[0]))
    women = seen.vectors @ line[:-1] + line[-1] > 0
    return float(((women == asked) & (seen.detected > 0)).mean())
