"""What choosing a checkpoint is worth: the chosen one against the last one, on finished runs.

    python scripts/bench/choice.py runs/*/latest [--subjects FOLDER] [--work build/choice]

Each run is scored as its lock says and once more with `evaluate.choose=last`; its photos and its fit are reused, in
hard links below `--work`, so the runs themselves stay as they are. Photos are in `--subjects`/NAME, else in
subjects/NAME/photos. The choice weighs likeness and prompt, so both are compared, and their product, by the judge on
the report photos. Each likeness has the 95% interval of `trainer compare`, the means have one over the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.console import Console
from trainer.evaluate.calibrate import interval95
from trainer.evaluate.compare import Difference, difference, read_scored
from trainer.evaluate.strength import checkpoint_name
from trainer.jobs import EVALUATE, FIT
from trainer.pipeline import Pipeline
from trainer.recipe import Layered, Recipe, flat_values
from trainer.subject import find_subject

ROUNDS = 10_000


@dataclass(frozen=True)
class Choice:
    """One run's two checkpoints and what lies between them.

    Attributes:
        gain: of the likeness, as a share of the ceiling.
        prompt: of the share of what was asked for that is shown.
        both: of their product.
    """

    name: str
    chosen: str
    last: str
    gain: Difference
    prompt: float
    both: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--subjects", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/choice"))
    args = parser.parse_args()
    found = []
    for run in args.runs:
        found.append(choice(run.resolve(), args.subjects, args.work))
        print(row(found[-1]), flush=True)
    columns = {
        "likeness": [one.gain.of_ceiling for one in found],
        "prompt": [one.prompt for one in found],
        "both": [one.both for one in found],
    }
    same = sum(one.chosen == one.last for one in found)
    means = ", ".join(mean_of(name, gains) for name, gains in columns.items())
    print(f"mean of {len(found)}: {means}; {same} chose the last one")


def choice(run: Path, subjects: Path | None, work: Path) -> Choice:
    """Score the run as it is and with its last checkpoint."""
    recipe = Recipe.model_validate(json.loads((run / "lock.json").read_text())["recipe"])
    name, copy = run.parent.name, work / run.parent.name / run.name
    if not copy.is_dir():
        shutil.copytree(run, copy, copy_function=os.link, ignore=shutil.ignore_patterns(".*", "events.jsonl"))
    photos = None if subjects is None else subjects / name
    best, chosen = scored(name, recipe, photos, work)
    if chosen == str(max(row["step"] for row in card_of(best)["checkpoints"])):  # the last one, as it is
        return Choice(name, chosen, chosen, difference(*[read_scored(best)] * 2), 0.0, 0.0)
    last_recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"choose": "last"})})
    last, step = scored(name, last_recipe, photos, work)
    (there, shown), (here, said) = (likeness_and_prompt(card_of(run)) for run in (best, last))
    gain = difference(read_scored(last), read_scored(best))
    return Choice(name, chosen, step, gain, shown - said, there * shown - here * said)


def card_of(run: Path) -> dict:
    return json.loads((run / "3_evaluate/scorecard.json").read_text())


def likeness_and_prompt(card: dict) -> tuple[float, float]:
    """`of_ceiling`, none below 0, and the share of the asked words shown; 1 where none can be measured."""
    prompt = card["prompt"]["adapter"]
    return max(0.0, card["identity"]["of_ceiling"]), 1.0 if prompt is None else prompt


def scored(name: str, recipe: Recipe, photos: Path | None, work: Path) -> tuple[Path, str]:
    """The run folder and the checkpoint that was taken, "400" or "400 at 0.8". Exits where the fit cannot be reused."""
    layered = Layered(recipe, dict.fromkeys(flat_values(recipe), "lock"), work)
    pipeline = Pipeline(find_subject(name, Path.cwd(), photos), layered, work, Console())
    if FIT not in pipeline.run(until=FIT)["reused"]:
        raise SystemExit(f"{name}: its fit cannot be reused: another version made it, or its photos changed")
    summary = pipeline.run(until=EVALUATE)
    facts = summary["stages"][EVALUATE]
    return Path(summary["run"]), checkpoint_name(facts["chosen_step"], facts["chosen_strength"])


def row(one: Choice) -> str:
    low, high = one.gain.ci95
    return (
        f"{one.name}: step {one.chosen} over step {one.last}: likeness {one.gain.of_ceiling:+.3f} "
        f"({low:+.3f} to {high:+.3f}), prompt {one.prompt:+.3f}, both {one.both:+.3f}"
    )


def mean_of(name: str, gains: list[float]) -> str:
    """The mean over the runs with its 95% bootstrap interval."""
    drawn = np.random.default_rng(0).choice(np.array(gains), (ROUNDS, len(gains)))
    low, high = interval95(drawn.mean(1))
    return f"{name} {np.mean(gains):+.3f} (95% {low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
