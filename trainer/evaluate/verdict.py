"""The scorecard in plain words: a verdict, the reasons to doubt it, and what to do for a better one."""

from __future__ import annotations

from typing import Any

STRONG, FAIR = 0.75, 0.5  # of_ceiling from which the verdict says so
WIDE_INTERVAL = 0.3  # width of the 95% interval of of_ceiling from which two adapters are not worth ranking
ENOUGH_PHOTOS = 15
RISING = 1.1  # times the likeness of the checkpoint before
WEAK_PROMPT = 0.75  # share of the mean likeness under which a prompt is worth a word
SHOWABLE = ("pose", "expression", "light")  # groups of prompts whose words photos can show


def verdict(card: dict[str, Any], copying_limit: float) -> tuple[str, list[str]]:
    """strong, fair, weak or unmeasurable, and every reason to read the number with care."""
    identity, reasons = card["identity"], []
    share = identity["of_ceiling"]
    if share is None:
        return "unmeasurable", ["the person's own photos are no more alike than strangers' to the judge"]
    if card["seal"]["broken"]:
        return "unmeasurable", [f"{card['seal']['broken']} sealed photos are among the training samples: prepare anew"]
    if identity["mean"] > identity["ceiling"]:
        reasons.append("above the person's own ceiling: look for copied photos")
    if card["copying"]["excess"] is None:
        reasons.append("what it was fitted on is not known: with photos that it has seen, the score means little")
    elif card["copying"]["excess"] > copying_limit:
        reasons.append(f"nearer to the photos it was fitted on than a new photo is, by {card['copying']['excess']:.2f}")
    if card["detection_rate"] < 0.95:
        reasons.append(f"no face in {1 - card['detection_rate']:.0%} of the pictures")
    learned = identity["mean"] - identity["floor_base"]
    if learned > 0.05 and card["leak"]["excess"] > 0.5 * learned:
        reasons.append("the class word alone also brings the person: call other people by other words")
    low, high = identity["of_ceiling_ci95"]
    if high - low > WIDE_INTERVAL:
        reasons.append(f"the interval spans {high - low:.0%} of the way to the ceiling: too wide to rank two adapters")
    beside = card["leak"]["beside_excess"]
    if beside is not None and learned > 0.05 and beside > 0.5 * learned:
        reasons.append("whoever stands beside the person looks like them too")
    if card["photos"]["report"] < 4:
        reasons.append(f"only {card['photos']['report']} sealed photos: a wide interval")
    name = "strong" if share >= STRONG else "fair" if share >= FAIR else "weak"
    return name, reasons


def advice(card: dict[str, Any], copying_limit: float) -> list[str]:
    """What to do next, the most useful first; empty where nothing stands out."""
    said = []
    if card["photos"]["fit"] and card["photos"]["fit"] < ENOUGH_PHOTOS:
        said.append(f"add photos: {card['photos']['fit']} were left to fit on, {ENOUGH_PHOTOS} or more serve better")
    weakest = _weakest_prompt(card)
    if weakest:
        said.append(f"add photos that show “{weakest}”: asked for that, the pictures are least like the person")
    if card["copying"]["excess"] is not None and card["copying"]["excess"] > copying_limit:
        said.append("lower fit.steps, or add photos from other days and places: it repeats what it has seen")
    if card["detection_rate"] < 0.95:
        said.append("lower fit.learning_rate: pictures without a face come from a fit that broke the base")
    if _still_rising(card["checkpoints"]):
        said.append("raise fit.steps: the likeness was still rising at the last checkpoint")
    return said


def _still_rising(checkpoints: list[dict[str, Any]]) -> bool:
    """Whether the last checkpoint was chosen and is well above the one before."""
    if len(checkpoints) < 2:
        return False
    before, last = checkpoints[-2:]
    return bool(last["selected"] and last["identity_select"] > RISING * before["identity_select"])


def _weakest_prompt(card: dict[str, Any]) -> str | None:
    """What the prompt with the lowest likeness asks for, where it lies well below the mean and photos can show it."""
    rows = [row for row in card["by_prompt"] if row["group"] in SHOWABLE]
    worst = min(rows, key=lambda row: row["identity"], default=None)
    if worst is None or worst["identity"] >= WEAK_PROMPT * card["identity"]["mean"]:
        return None
    return str(worst["prompt"]).partition(", ")[2]
