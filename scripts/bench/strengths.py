"""What less of an adapter's change to the base costs and brings: the last checkpoint of finished runs, weakened.

    python scripts/bench/strengths.py runs/*/latest --subjects FOLDER [--strengths 0.8 0.6] [--work build/strengths]

The judge scores each strength as the run's own evaluation would, on the same prompts, seeds and sealed photos. Photos
are in `--subjects`/NAME. Pictures are kept below `--work`, so an interrupted try goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from trainer.album import read_album
from trainer.console import Console
from trainer.evaluate.strength import checkpoint_name, weaker
from trainer.fit.checkpoint import find_checkpoints
from trainer.prepare.stage import read_split
from trainer.recipe import Recipe
from trainer.scoring import Scoring

HEADER = "| subject | step and strength | of_ceiling | prompt | product | leak | men, women | copying |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.8, 0.6])
    parser.add_argument("--work", type=Path, default=Path("build/strengths"))
    args = parser.parse_args()
    print(HEADER + "\n|" + "---|" * (HEADER.count("|") - 1), flush=True)
    for run in args.runs:
        for strength, card in scored(run.resolve(), args.subjects, args.strengths, args.work):
            print(row(run.resolve().parent.name, strength, card), flush=True)


def scored(run: Path, subjects: Path, strengths: list[float], work: Path) -> Iterator[tuple[str, dict]]:
    """The judge's part of the scorecard for the last checkpoint as it is, then at each strength."""
    recipe = Recipe.model_validate(json.loads((run / "lock.json").read_text())["recipe"])
    folder = work / run.parent.name / run.name
    scoring = Scoring(recipe, read_album(subjects / run.parent.name, folder / "unpacked"), Console())
    split, last = read_split(run / "1_prepare"), find_checkpoints(run / "2_fit")[-1]
    for checkpoint in [last, *weaker(last, strengths, folder)]:
        name = checkpoint_name(checkpoint.step, checkpoint.strength)
        evaluator = scoring.evaluator(run / "1_prepare", folder / name.replace(" ", "-"), split)
        yield name, evaluator.report(checkpoint)[0]


def row(subject: str, strength: str, card: dict) -> str:
    share, prompt = card["identity"]["of_ceiling"], card["prompt"]["adapter"]
    numbers = [f"{share:.3f}", f"{prompt:.2f}", f"{max(0.0, share) * prompt:.3f}", f"{card['leak']['excess']:+.3f}"]
    sexes = card["leak"]["sexes"]
    numbers += ["-" if sexes is None else f"{sexes:.2f}", f"{card['copying']['excess']:+.3f}"]
    return "| " + " | ".join([subject, strength, *numbers]) + " |"


if __name__ == "__main__":
    main()
