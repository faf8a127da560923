"""The scorecard in plain words: a verdict, the reasons to doubt it, and what to do for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trainer.faces.attributes import VOCABULARY, mirrored

STRONG, FAIR = 0.75, 0.5  # of_ceiling from which the verdict says so
WIDE_INTERVAL = 0.3  # width of the 95% interval of of_ceiling from which two adapters are not worth ranking
ENOUGH_PHOTOS = 15
ENOUGH_OF_A_LOOK = 5  # photos: a third of those
NO_COUNTS: Mapping[str, int] = MappingProxyType({})
RISING = 1.1  # times the likeness of the checkpoint before
WEAK_PROMPT = 0.75  # share of the mean likeness under which a prompt is worth a word
SHOWABLE = ("pose", "expression", "light")  # groups of prompts whose words photos can show
# The ten adapters of the benchmark stay clear of the next three: 0.69, 0.81 and -0.54 are the nearest.
ALIKE = 0.5  # share of the base's diversity under which pictures of one prompt are all alike
DEAF = 0.7  # share of the base's prompt score under which an adapter does not listen
ONE_SEX = -0.25  # change of the share of other people of the sex asked for under which the person's sex leaks
COARSE = -1.0  # octaves of detail below the base's from which the faces are blurred, sharpened or not


def verdict(card: dict[str, Any], copying_limit: float) -> tuple[str, list[str]]:
    """strong, fair, weak or unmeasurable, and every reason to read the number with care."""
    share, photos = card["identity"]["of_ceiling"], card["photos"]
    if not photos["report"]:
        said = f"{photos['fit']} photos are too few different shots to seal any: nothing shows how like they are"
        return "unmeasurable", [said, *_picture_doubts(card)]
    if share is None:
        return "unmeasurable", ["the person's own photos are no more alike than strangers' to the judge"]
    if card["seal"]["broken"]:
        return "unmeasurable", [f"{card['seal']['broken']} sealed photos are among the training samples: prepare anew"]
    name = "strong" if share >= STRONG else "fair" if share >= FAIR else "weak"
    return name, [*_copying_doubts(card, copying_limit), *_picture_doubts(card), *_likeness_doubts(card)]


def _copying_doubts(card: dict[str, Any], limit: float) -> list[str]:
    """Signs that the pictures are photos."""
    identity, excess, any_excess = card["identity"], card["copying"]["excess"], card["copying"]["any_excess"]
    said = []
    if identity["mean"] > identity["ceiling"]:
        said.append("above the person's own ceiling: look for copied photos")
    if excess is None:
        said.append("what it was fitted on is not known: with photos that it has seen, the score means little")
    elif excess > limit:
        said.append(f"nearer to the photos it was fitted on than a new photo is, by {excess:.2f}")
    if any_excess is not None and any_excess > limit:
        said.append(f"nearer to single photos, sealed or not, than these are to each other, by {any_excess:.2f}")
    return said


def _picture_doubts(card: dict[str, Any]) -> list[str]:
    """What is wrong with the pictures, whomever they show."""
    change = card["detail"]["change"]
    said = []
    if card["detection_rate"] < 0.95:
        said.append(f"no face in {1 - card['detection_rate']:.0%} of the pictures")
    if change is not None and change < COARSE:
        said.append(f"the faces are blurred: {-change:.1f} octaves less fine detail than the base's own have")
    return said + picture_doubts(card)


def picture_doubts(card: dict[str, Any]) -> list[str]:
    """What is wrong with the pictures, whatever they show."""
    prompt, diversity = card["prompt"], card["diversity"]
    said = []
    if None not in (diversity["adapter"], diversity["base"]) and diversity["adapter"] < ALIKE * diversity["base"]:
        said.append("pictures of one prompt are all alike: different seeds hardly change them")
    if _is_deaf(prompt):
        said.append("much less of what is asked for is shown than by the base alone")
    return said


def _is_deaf(prompt: Mapping[str, Any]) -> bool:
    """Whether the adapter shows much less of what is asked for than the base alone."""
    return None not in (prompt["adapter"], prompt["base"]) and prompt["adapter"] < DEAF * prompt["base"]


def _likeness_doubts(card: dict[str, Any]) -> list[str]:
    """What makes the likeness worth less, or less sure."""
    identity, leak, sealed = card["identity"], card["leak"], card["photos"]["report"]
    learned = identity["mean"] - identity["floor_base"]
    low, high = identity["of_ceiling_ci95"]
    said = []
    if learned > 0.05 and leak["excess"] > 0.5 * learned:
        said.append("the class word alone also brings the person: call other people by other words")
    if leak["sexes_change"] is not None and leak["sexes_change"] <= ONE_SEX:
        said.append("asked for other people, it no longer makes men and women as the base does")
    if learned > 0.05 and leak["beside_excess"] is not None and leak["beside_excess"] > 0.5 * learned:
        said.append("whoever stands beside the person looks like them too")
    if high - low > WIDE_INTERVAL:
        said.append(f"the interval spans {high - low:.0%} of the way to the ceiling: too wide to rank two adapters")
    if sealed < 4:
        said.append(f"only {sealed} sealed photos: a wide interval")
    return said


def advice(card: dict[str, Any], copying_limit: float, shows: Mapping[str, int] = NO_COUNTS) -> list[str]:
    """What to do next, the most useful first; empty where nothing stands out.

    `shows` tells in how many of the fit photos each attribute word was measured.
    """
    said = []
    if not card["photos"]["report"]:
        said.append(
            "add photos from other days, places and angles: from 8 different shots on some are sealed for a score"
        )
    elif card["photos"]["fit"] and card["photos"]["fit"] < ENOUGH_PHOTOS:
        said.append(f"add photos: {card['photos']['fit']} were left to fit on, {ENOUGH_PHOTOS} or more serve better")
    weakest = _weakest_prompt(card)
    if weakest:
        said.append(_more_of(weakest, card["photos"]["fit"], shows))
    if card["copying"]["excess"] is not None and card["copying"]["excess"] > copying_limit:
        said.append("lower fit.steps, or add photos from other days and places: it repeats what it has seen")
    if card["detection_rate"] < 0.95:
        said.append("lower fit.learning_rate: pictures without a face come from a fit that broke the base")
    if _is_deaf(card["prompt"]) and card["checkpoints"]:
        said.append("lower fit.steps, by half for example: it learned the person too hard to listen")
    if _still_rising(card["checkpoints"]):
        said.append("raise fit.steps: the likeness was still rising at the last checkpoint")
    return said


def _still_rising(checkpoints: list[dict[str, Any]]) -> bool:
    """Whether the last checkpoint was chosen, at its full strength, and is well above the one before."""
    whole = [row for row in checkpoints if row["strength"] == 1.0]
    if len(whole) < 2:
        return False
    before, last = whole[-2:]
    return bool(last["selected"] and last["identity_select"] > RISING * before["identity_select"])


def _more_of(look: str, fitted: int, shows: Mapping[str, int]) -> str:
    """How many photos of this look to add, where it is known how many show it; the mirror image counts as well."""
    least = "asked for that, the pictures are least like the person"
    (other,) = mirrored([look])
    found = shows.get(look, 0) + (shows.get(other, 0) if other != look else 0)
    if not shows or not fitted or look not in VOCABULARY or found >= ENOUGH_OF_A_LOOK:
        return f"add photos that show “{look}”: {least}"
    both = look if other == look else f"{look}” or “{other}"
    return f"add {ENOUGH_OF_A_LOOK - found} photos that show “{both}”, as {found} of {fitted} do: {least}"


def _weakest_prompt(card: dict[str, Any]) -> str | None:
    """What the prompt with the lowest likeness asks for, where it lies well below the mean and photos can show it."""
    rows = [row for row in card["by_prompt"] if row["group"] in SHOWABLE and row["identity"] is not None]
    worst = min(rows, key=lambda row: row["identity"], default=None)
    if worst is None or worst["identity"] >= WEAK_PROMPT * card["identity"]["mean"]:
        return None
    return str(worst["prompt"]).partition(", ")[2]
