"""What an embedded base can do without any adapter, as markdown tables.

    python scripts/bench/base_model.py [--base FOLDER] [--count 1000] [--pictures FOLDER] [--curve FILE]
    python scripts/bench/base_model.py --speed [--base FOLDER]

Without `--pictures`, the training pictures' folder: faces found and prompts followed. With it, also the distance to
held-out real pictures, whether people were memorised, skew by group, and how far the probe that reads all this is to
be trusted. `--cache` is where the trainings keep the decoded pictures and their words.

Samples and vectors are kept in `--work`: a stopped run goes on, a larger one takes them along. `--curve` adds a line of
JSON a base: run it on the published folder of each training day. `--card` puts the tables into the model card.
Agreement is given by the word that was asked for; the probe is `trainer.faces.attributes`, and for sex a line through
the judge's vectors of the training pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "base"))  # the trainings' own way to read the pictures

import base_against
import base_tables as tables
from base_real import read_real
from base_samples import SAMPLING, Asked, asked_for, folder_of, make
from pages import write_table

from trainer.bases.base import EMBEDDED, get_base
from trainer.weights import NEW_BASE, cache_folder, fetch, needed


def main() -> None:
    args = arguments()
    if args.speed:
        script = Path(__file__).with_name("base_speed.py")
        raise SystemExit(subprocess.run([sys.executable, script, "--base", args.base], check=False).returncode)
    fetch(cache_folder(), files=needed(NEW_BASE))
    real = read_real(args.pictures, args.cache) if args.pictures else None
    base = get_base("portrait-tiny", str(args.base))
    asked = asked_for(args.count, base.prompt_set, [real.words[i] for i in real.trained] if real else [])
    version = base.sha256[:12]
    samples = make(base, asked, folder_of(args.work, base))
    said = f"Base {version}, {len(samples)} samples of {SAMPLING['steps']} steps, guidance {SAMPLING['guidance']:g}:"
    seen = base_against.look(samples, args.work / "seen")
    section, figures = general(asked, seen)
    sections = [said, section]
    if real is None:
        sections.append(tables.steering(asked, seen, [None] * len(asked)))
    else:
        evidence = base_against.gather(asked, seen, real, args.base, args.work / "seen", args.held_out, args.trained)
        more, measured = against_real(evidence)
        sections, figures = sections + more, figures | measured
    print("\n\n".join(sections))
    if args.card:
        write_table(args.card, "base", "\n\n".join(sections))
    if args.curve:
        with args.curve.open("a") as curve:
            curve.write(json.dumps({"base": version, "label": args.label, **figures}) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=EMBEDDED, help="diffusers folder, else the embedded one")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/base"))
    parser.add_argument("--held-out", type=int, default=500, help="at most so many of the held-out pictures")
    parser.add_argument(
        "--trained",
        type=int,
        help="at most so many of the training pictures, else all; sexes are told by them, from few of them badly",
    )
    parser.add_argument("--work", type=Path, default=Path("build/base_model"))
    parser.add_argument("--card", type=Path, help="page whose tables between the marks `base` are replaced")
    parser.add_argument("--curve", type=Path, help="file that gets a line of figures")
    parser.add_argument("--label", help="what the curve calls this base, such as its training's steps")
    parser.add_argument("--speed", action="store_true", help="only times, in a process of its own")
    return parser.parse_args()


def general(asked: list[Asked], seen: tables.Seen) -> tuple[str, dict[str, float]]:
    """Faces found, prompts followed, and how alike two samples are."""
    single = np.flatnonzero([not one.captioned for one in asked])
    ok = tables.flat(tables.followed([asked[i] for i in single], seen.rows(single).words))
    alike = seen.pairs()
    told = f"{alike.mean():.3f}, {np.quantile(alike, 0.99):.3f}" if len(alike) else "-"
    body = [
        ("a face is found", tables.share(seen.found)),
        ("prompt followed, one word asked for", tables.share(ok)),
        ("judge cosine of two: mean, 99th percentile", told),
    ]
    figures = {"count": len(asked), "found": seen.found.mean(), "followed": np.mean(ok)}
    figures |= {"alike": alike.mean()} if len(alike) else {}
    return tables.rows(("samples", "measured"), body), {name: float(value) for name, value in figures.items()}


def against_real(evidence: base_against.Evidence) -> tuple[list[str], dict[str, float]]:
    """Every section that needs real pictures, and their figures for the curve."""
    line = base_against.sex_line(evidence)
    sexes = base_against.sexes_right(line, evidence.seen.judge, [one.labels for one in evidence.asked])
    distances, figures = base_against.distances(evidence)
    memorisation, more = base_against.memorisation(evidence)
    steering = tables.steering(evidence.asked, evidence.seen, sexes)
    skew, probe = base_against.skew(evidence, sexes), base_against.probe(evidence, line)
    return [steering, distances, memorisation, skew, probe], figures | more


if __name__ == "__main__":
    main()
