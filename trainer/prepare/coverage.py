"""What the fitted photos show, and what an adapter cannot learn from them because none does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trainer.records import Photo

# Left and right count as one: a mirrored sample shows the other side.
WANTED = {
    "a smile": ("smiling",),
    "a neutral expression": ("neutral expression",),
    "the face from the front": ("facing front",),
    "the head turned to a side": ("turned left", "turned right"),
    "even light": ("even light",),
    "light from a side": ("light from the left", "light from the right"),
    "a busy background": ("busy background",),
    "a plain background": ("plain background",),
    "colours": ("color photo",),
}
HALF_PROFILE_DEG, UP_DOWN_DEG = 30.0, 15.0  # rough, as `trainer.prepare.quality.turn` measures them
DAY_S = 24 * 60 * 60


def coverage(words: Sequence[Sequence[str]]) -> dict[str, int]:
    """In how many photos each attribute word was measured, the most frequent first."""
    return dict(Counter(word for of_photo in words for word in of_photo).most_common())


def lacks(shown: dict[str, int], photos: Sequence[Photo] = ()) -> list[str]:
    """What no photo shows, in words for the user; with the photos also what their own numbers say."""
    missing = [what for what, names in WANTED.items() if not any(shown.get(name) for name in names)]
    return missing + (_not_measured(photos) if photos else [])


def _not_measured(photos: Sequence[Photo]) -> list[str]:
    """Half profiles, raised or lowered heads, and a second day, where every photo says when it was taken."""
    turns = [(abs(p.measured.get("yaw_deg") or 0.0), abs(p.measured.get("pitch_deg") or 0.0)) for p in photos]
    seconds = [photo.second for photo in photos if photo.second is not None]
    missing = []
    if max(yaw for yaw, _ in turns) < HALF_PROFILE_DEG:
        missing.append("a half profile")
    if max(pitch for _, pitch in turns) < UP_DOWN_DEG:
        missing.append("the head raised or lowered")
    if len(seconds) == len(photos) and len({second // DAY_S for second in seconds}) == 1:
        missing.append("another day")
    return missing
