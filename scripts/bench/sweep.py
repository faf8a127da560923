"""Which settings of a short fit go furthest: each tried on a few people and scored by the gate on their select photos.

    python scripts/bench/sweep.py --subjects FOLDER --only s01 s02 s03 --recipe portrait-tiny-quick \\
        --try "" --try "fit.learning_rate=3e-3" --try "fit.steps=8 fit.warmup_steps=1 fit.checkpoint_every=8"

FOLDER holds one folder of photos a person. The last checkpoint of each fit is scored as the evaluation scores one when
it chooses: six prompts, one seed, the gate, the select photos. The judge and the report photos are left alone, so that
what is found here is no choice by the score. Seconds are those of the steps. What `--out` holds already is read back.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--recipe", default="portrait-tiny-quick")
    parser.add_argument("--try", dest="tries", action="append", required=True, help="recipe keys and values")
    parser.add_argument("--out", type=Path, default=Path("build/sweep"))
    args = parser.parse_args()
    names = args.only or sorted(path.name for path in args.subjects.iterdir() if path.is_dir())
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / f"{args.recipe}.json"
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    print("| tried | s of steps | gate's of_ceiling, mean | of each | prompt |\n|---|---|---|---|---|")
    for tried in args.tries:
        for name in names:
            if f"{name} {tried}" not in found:
                found[f"{name} {tried}"] = scored(name, tried.split(), args)
                kept.write_text(json.dumps(found))
        print(line(tried, [found[f"{name} {tried}"] for name in names]), flush=True)


def scored(name: str, overrides: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the steps, and what the gate says of the last checkpoint."""
    from trainer.album import read_album
    from trainer.console import Console
    from trainer.fit.checkpoint import find_checkpoints
    from trainer.prepare.stage import read_split
    from trainer.recipe import load_recipe
    from trainer.scoring import Scoring

    run = fitted(name, overrides, args)
    recipe = load_recipe(args.recipe, overrides).recipe
    scoring = Scoring(recipe, read_album(args.subjects / name, args.out / "album"), Console(quiet=True))
    prepared, seen = run / "1_prepare", args.out / "seen"
    shutil.rmtree(seen, ignore_errors=True)
    seen.mkdir()
    evaluator = scoring.evaluator(prepared, seen, replace(read_split(prepared), report=()))
    candidate = evaluator.candidate(find_checkpoints(run / "2_fit")[-1])
    seconds = json.loads((run / "2_fit" / "stage.json").read_text())["facts"]["fit_s"]
    return {"s": seconds, "of_ceiling": candidate.of_ceiling, "prompt": candidate.prompt}


def fitted(name: str, overrides: list[str], args: argparse.Namespace) -> Path:
    """The run of `trainer fit` with these settings."""
    said: list[Any] = [name, "--recipe", args.recipe, "--photos", args.subjects / name, "--out", args.out / "runs"]
    said += [part for one in overrides for part in ("--set", one)]
    subprocess.run([sys.executable, "-m", "trainer", "fit", *map(str, said)], check=True, capture_output=True)
    return (args.out / "runs" / name / "latest").resolve()


def line(tried: str, rows: list[dict[str, float]]) -> str:
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    each = " ".join(f"{row['of_ceiling']:.3f}" for row in rows)
    told = f"{mean['s']:.1f} | {mean['of_ceiling']:.3f} | {each} | {mean['prompt']:.2f}"
    return f"| {tried or 'as the recipe says'} | {told} |"


if __name__ == "__main__":
    main()
