"""Train and score one adapter a person, and write the table.

    python scripts/bench/subjects.py --subjects FOLDER --out build/bench --table docs/explanation/benchmarks.md

FOLDER holds one folder of photos a person. The default recipe is used unless `--recipe` or `--set` say otherwise.
A subject whose run is there already is read back, so an interrupted benchmark goes on where it stopped. The table
replaces what stands between the two marks called `--mark` in the file.

`--groups` names a JSON file, {"alice": {"sex": "woman"}, ...}, of whatever you know of the people;
a second table then shows the means by each of these words, and by how like a person the base is without any adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pages import write_table

from trainer.evaluate.strength import checkpoint_name

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
    parser.add_argument("--mark", default="subjects", help="name of the table's marks")
    parser.add_argument("--groups", type=Path)
    args = parser.parse_args()
    names = args.only or sorted(path.name for path in args.subjects.iterdir() if path.is_dir())
    cards = {}
    for name in names:
        cards[name] = scored(name, args)
        print(row(name, cards[name]), flush=True)
    text = table(cards, args)
    if args.groups:
        text += "\n\n" + group_table(cards, json.loads(args.groups.read_text()))
    print(text)
    if args.table:
        write_table(args.table, args.mark, text)


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
    if card["identity"]["of_ceiling"] is None:
        return f"unmeasurable: {card['reasons'][0]}"
    card["total_s"] = sum(stage["seconds"] for stage in said["result"]["stages"].values())
    return card


def row(name: str, card: dict | str) -> str:
    if isinstance(card, str):
        return f"| {name} | {card} |"
    identity, photos = card["identity"], card["photos"]
    chosen = next(line for line in card["checkpoints"] if line["selected"])
    cells = [
        name, f"{photos['fit']}/{photos['select']}/{photos['report']}",
        *(f"{identity[key]:.3f}" for key in KEYS),
        f"{card['copying']['excess']:+.3f}", f"{card['leak']['excess']:+.3f}", f"{card['prompt']['adapter']:.2f}",
        f"{card['detection_rate']:.2f}", checkpoint_name(chosen["step"], chosen["strength"]),
        f"{card['cost']['fit_s']:.0f}", f"{card['total_s']:.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


THIRDS = ("lowest third", "middle third", "highest third")
GROUP_HEADER = (
    "| group | people | identity | ceiling | floor strangers | floor base | of_ceiling | base of_ceiling "
    "| copying | leak | detected |"
)
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
            f"{good[0]['recipe']['sha256'][:12]}, judge {good[0]['judge']['name']}. {gate_agreement(good)}",
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


def gate_agreement(cards: list[dict]) -> str:
    """How alike judge and gate rank the adapters, each by its own `of_ceiling`, so that nobody's face counts.

    On the same pictures and photos, and on those by which the gate chose the checkpoint.
    """
    judge = [card["identity"]["of_ceiling"] for card in cards]
    same = [card["identity"]["of_ceiling_gate"] for card in cards]
    chosen = [next(line["of_ceiling_select"] for line in card["checkpoints"] if line["selected"]) for card in cards]
    if len(cards) < 3 or None in (*same, *chosen):
        return "Too few adapters to compare the gate's ranking with the judge's."
    return (
        f"Judge and gate rank these {len(cards)} adapters, each by its own of_ceiling of the same pictures and photos, "
        f"with a Spearman correlation of {spearman(judge, same):.2f}; with the gate's look at the select photos and "
        f"the pictures that it chose by, {spearman(judge, chosen):.2f}."
    )


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, -1 to 1; equal values share their mean rank (Spearman, Am. J. Psychol. 15, 1904)."""
    ranks = [[(np.less(values, v).sum() + np.less_equal(values, v).sum()) / 2 for v in values] for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def group_table(cards: dict[str, dict | str], groups: dict[str, dict[str, str]]) -> str:
    """Means by what is known of the people, and by thirds of the base's own likeness to them: does a bias show?"""
    good = {name: card for name, card in cards.items() if not isinstance(card, str)}
    strange = sorted(groups.keys() - cards.keys())
    if strange:
        raise SystemExit(f"no such subjects: {', '.join(strange)}")
    members: dict[str, list[dict]] = {}
    for name, card in good.items():
        for key, word in groups.get(name, {}).items():
            members.setdefault(f"{key}: {word}", []).append(card)
    ranked = sorted(good.values(), key=lambda card: card["identity"]["floor_base"])
    thirds = [ranked[len(ranked) * part // 3 : len(ranked) * (part + 1) // 3] for part in range(3)]
    rows = [*sorted(members.items()), *zip((f"base's likeness: {w}" for w in THIRDS), thirds, strict=True)]
    lines = [GROUP_HEADER, "|" + "---|" * (GROUP_HEADER.count("|") - 1)]
    return "\n".join([*lines, *(group_row(word, group) for word, group in rows if group)])


def group_row(word: str, cards: list[dict]) -> str:
    def cell(of: Callable[[dict], float | None], form: str) -> str:
        known = [value for value in map(of, cards) if value is not None]
        return format(np.mean(known), form) if known else "-"

    cells = [
        word,
        str(len(cards)),
        *(cell(lambda card, key=key: card["identity"][key], ".3f") for key in KEYS),
        cell(lambda card: card["copying"]["excess"], "+.3f"),
        cell(lambda card: card["leak"]["excess"], "+.3f"),
        cell(lambda card: card["detection_rate"], ".2f"),
    ]
    return "| " + " | ".join(cells) + " |"


def processor() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {named[0] if named else platform.processor()}"


if __name__ == "__main__":
    main()
