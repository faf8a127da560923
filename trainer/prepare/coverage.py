"""What the fitted photos show, and what an adapter cannot learn from them because none does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# Left and right count as one: a mirrored sample shows the other side.
WANTED = {
    "a smile": ("smiling",),
    "a neutral expression": ("neutral expression",),
    "the face from the front": ("facing front",),
    "the head turned to a side": ("turned left", "turned right"),
    "even light": ("even light",),
    "light from a side": ("light from the left", "light from the right"),
}


def coverage(words: Sequence[Sequence[str]]) -> dict[str, int]:
    """In how many photos each attribute word was measured, the most frequent first."""
    return dict(Counter(word for of_photo in words for word in of_photo).most_common())


def lacks(shown: dict[str, int]) -> list[str]:
    """What no photo shows, in words for the user."""
    return [what for what, names in WANTED.items() if not any(shown.get(name) for name in names)]
