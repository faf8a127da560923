"""In what two locks differ, in words."""

from __future__ import annotations

from typing import Any

from trainer.recipe import leaves

WORDS = {
    "adapter_sha256": "the adapter that was scored",
    "base_sha256": "the base's weights",
    "captioner_sha256": "the model that describes the photos",
    "captions": "your .txt captions",
    "consent": "what consent.toml says",
    "machine": "the machine",
    "photos": "the photos",
    "recipe_sha256": "the recipe",
    "reference_sha256": "the reference photo",
    "schema": "the lock's own version",
    "split.fit": "the photos that were fitted on",
    "split.report": "the sealed photos of the report",
    "split.select": "the sealed photos of the selection",
    "threads": "the number of threads",
    "warm_start_sha256": "the adapter that the fit started from",
}
GROUPS = {
    "consent.": "consent: ", "recipe.": "the recipe's ", "versions.": "the version of ", "weights.": "the face model ",
}  # fmt: skip


def lock_differences(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Why two runs may differ: one line for each value of their locks that does, what it is before what it was.

    The recipe's hash counts only where none of its values differs, as under another version's defaults.
    """
    flat = [dict(leaves(lock)) for lock in (first, other)]
    keys = [key for key in sorted(flat[0].keys() | flat[1].keys()) if flat[0].get(key) != flat[1].get(key)]
    if any(key.startswith("recipe.") for key in keys):
        keys = [key for key in keys if key != "recipe_sha256"]
    return [f"{named(key)}: {_both(key, *(values.get(key) for values in flat))}" for key in keys]


def named(key: str) -> str:
    """What a value of a lock is, as `recipe.fit.steps`; a key that is not known here stands for itself."""
    group = next((group for group in GROUPS if key.startswith(group)), "")
    return WORDS.get(key, GROUPS.get(group, "") + key.removeprefix(group))


def _both(key: str, then: Any, now: Any) -> str:
    if key in WORDS and isinstance(then if then is not None else now, list):  # hashes of photos or texts
        gone, new = len(set(then or []) - set(now or [])), len(set(now or []) - set(then or []))
        return f"{gone} only in the first, {new} only in the other"
    digest = key.endswith("sha256") or key.startswith("weights.")
    return " and ".join("none" if value is None else str(value)[:12] if digest else str(value) for value in (then, now))
