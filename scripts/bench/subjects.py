"""Train and score one adapter a person, and write the table.

    python scripts/bench/subjects.py --subjects FOLDER --out build/bench --table docs/explanation/benchmarks.md

FOLDER holds one folder of photos a person. The default recipe is used unless `--recipe` or `--set` say otherwise.
A subject whose run is there already is read back, so an interrupted benchmark goes on where it stopped. The table
replaces what stands between the two markers in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

START, END = "<!-- subjects: start -->", "<!-- subjects: end -->"
HEADER = (
    "| subject | photos fit/select/report | identity | ceiling | floor strangers | floor base | of_ceiling "
    "| base of_ceiling | copying | leak | prompt | detected | step | fit s | total s |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of folders, else all")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--recipe", default="portrait-tiny")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    names = args.only or sorted(path.name for path in args.subjects.iterdir() if path.is_dir())
    cards = {}
    for name in names:
        cards[name] = scored(name, args)
        print(row(name, cards[name]), flush=True)
    text = table(cards, args)
    print(text)
    if args.table:
        before, _, rest = args.table.read_text().partition(START)
        args.table.write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}")


def scored(name: str, args: argparse.Namespace) -> dict | str:
    """The scorecard of one subject with the seconds of its whole command, or the reason why there is none."""
    command = [sys.executable, "-m", "trainer", "train", name, "--photos", str(args.subjects / name)]
    command += ["--recipe", args.recipe, "--out", str(args.out / "runs"), "--json"]
    command += [part for override in args.overrides for part in ("--set", override)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    said = json.loads(done.stdout or '{"ok": false, "error": {"message": "no answer"}}')
    if not said["ok"]:
        return f"exit {done.returncode}: {said['error']['message'].splitlines()[0]}"
    card = json.loads(Path(said["result"]["scorecard"]).read_text())
    card["total_s"] = sum(stage["seconds"] for stage in said["result"]["stages"].values())
    return card


def row(name: str, card: dict | str) -> str:
    if isinstance(card, str):
        return f"| {name} | {card} |"
    identity, photos = card["identity"], card["photos"]
    step = next(line["step"] for line in card["checkpoints"] if line["selected"])
    cells = [
        name, f"{photos['fit']}/{photos['select']}/{photos['report']}",
        *(f"{identity[key]:.3f}" for key in KEYS),
        f"{card['copying']['excess']:+.3f}", f"{card['leak']['excess']:+.3f}", f"{card['prompt']['adapter']:.2f}",
        f"{card['detection_rate']:.2f}", str(step),
        f"{card['cost']['fit_s']:.0f}", f"{card['total_s']:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


KEYS = ("mean", "ceiling", "floor_strangers", "floor_base", "of_ceiling", "of_ceiling_base")


def table(cards: dict[str, dict | str], args: argparse.Namespace) -> str:
    lines = [HEADER, "|" + "---|" * (HEADER.count("|") - 1), *(row(name, card) for name, card in cards.items())]
    good = [card for card in cards.values() if not isinstance(card, str)]
    if good:
        lines.append("| " + " | ".join(["**mean**", "", *mean_cells(good)]) + " |")
        overrides = "".join(f" --set {override}" for override in args.overrides)
        lines += [
            "",
            f"Made by `python scripts/bench/subjects.py --subjects FOLDER --recipe {args.recipe}{overrides}` on "
            f"{processor()}; base {good[0]['base']['name']} {good[0]['base']['sha256'][:12]}, recipe "
            f"{good[0]['recipe']['sha256'][:12]}, judge {good[0]['judge']['name']}. Gate and judge rank these adapters "
            f"with a Spearman correlation of {gate_agreement(good):.2f}.",
        ]
    return "\n".join(lines)


def mean_cells(cards: list[dict]) -> list[str]:
    def mean(of: Callable[[dict], float], form: str) -> str:
        return format(np.mean([of(card) for card in cards]), form)

    return [
        *(mean(lambda card, key=key: card["identity"][key], ".3f") for key in KEYS),
        mean(lambda card: card["copying"]["excess"], "+.3f"),
        mean(lambda card: card["leak"]["excess"], "+.3f"),
        mean(lambda card: card["prompt"]["adapter"], ".2f"),
        mean(lambda card: card["detection_rate"], ".2f"),
        "",
        mean(lambda card: card["cost"]["fit_s"], ".0f"),
        mean(lambda card: card["total_s"], ".0f"),
    ]


def gate_agreement(cards: list[dict]) -> float:
    """Spearman's rank correlation of the judge's likeness on the report photos with the gate's on the select ones."""
    gate = [next(row["identity_select"] for row in card["checkpoints"] if row["selected"]) for card in cards]
    judge = [card["identity"]["mean"] for card in cards]
    ranks = [np.argsort(np.argsort(values)) for values in (gate, judge)]
    return float(np.corrcoef(*ranks)[0, 1])


def processor() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {named[0] if named else platform.processor()}"


if __name__ == "__main__":
    main()
