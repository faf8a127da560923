"""Does the base read what the captions say? Its tokenizers cut and split without a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trainer.bases.base import Base
from trainer.console import Console
from trainer.errors import UsageError
from trainer.faces.attributes import mirrored
from trainer.fit.cache import class_caption
from trainer.records import Sample

MOST_PIECES = 4  # a trigger of four letters that are spelled one by one, as the embedded base does, is no worry


def check_reading(
    samples: Sequence[Sample], base: Base, trigger: str, mirror: bool, console: Console, spelled: bool = True
) -> dict[str, Any]:
    """Say which captions are cut or not mirrored, and into how many pieces the trigger is split; returns the facts.

    Unless the trigger is `spelled` it has vectors of its own, and any number of pieces is right.
    """
    counted = [base.count_tokens(sample.caption) for sample in samples]
    most = counted[0][1]
    cut = [sample.path.name for sample, (count, _) in zip(samples, counted, strict=True) if count > most]
    if cut:
        longest = max(count for count, _ in counted)
        console.say(
            f"{len(cut)} of {len(samples)} captions are longer than the {most} tokens that the base reads (the longest "
            f"has {longest}); their ends do nothing: {', '.join(cut[:3])}{' and others' if len(cut) > 3 else ''}"
        )
    first = samples[0].caption
    pieces = base.count_tokens(first)[0] - base.count_tokens(class_caption(first, trigger))[0]
    if spelled and pieces > MOST_PIECES:
        console.say(
            f"the base splits the trigger {trigger} into {pieces} pieces, which is hard to learn: choose a "
            f"prepare.trigger of at most {MOST_PIECES}, such as ohwx"
        )
    sided = sum(says_a_side(sample.caption) for sample in samples) if mirror else 0
    if sided:
        console.say(
            f"{sided} of {len(samples)} captions say left or right in words that the mirror image does not "
            "exchange: take them out, or set fit.mirror=false"
        )
    return {"trigger_pieces": pieces, "captions_cut": len(cut), "captions_not_mirrored": sided}


def check_apart(samples: Sequence[Sample], trigger: str) -> None:
    """Raises UsageError where a caption has the trigger inside another word: a token of it would cut that word too."""
    for sample in samples:
        rest = re.sub(rf"\b{trigger}\b", "", sample.caption.lower())
        if trigger in rest:
            raise UsageError(
                f"prepare.trigger: {trigger} is a part of another word in the caption of {sample.path.name}",
                "choose a word that no other contains, such as ohwx",
            )


def says_a_side(caption: str) -> bool:
    """Whether a part of it that means something else in a mirror stays as it is there; see `cache.mirrored_caption`."""
    parts = caption.split(", ")
    kept = [part for part, other in zip(parts, mirrored(parts), strict=True) if part == other]
    return any(re.search(r"\b(?:left|right)\b", part, re.IGNORECASE) for part in kept)
