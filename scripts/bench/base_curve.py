"""The curve of a base over its training: a line a day of what `base_model.py --curve` measured.

    python scripts/bench/base_curve.py build/curve.jsonl [--plot docs/explanation/portrait-tiny.svg]

A base that was measured twice counts as it was measured last. `--plot` needs `pip install matplotlib`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pages import FIGURES, figures_table

COLUMNS = {key: word for key, word in FIGURES.items() if not key.startswith("floor_")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG to draw")
    args = parser.parse_args()
    days = read(args.curve)
    print(figures_table("base", {name(day): day for day in days}, COLUMNS))
    if args.plot:
        plot(days, args.plot)


def read(file: Path) -> list[dict]:
    """A line of figures a base, in the order in which they were first measured. Raises SystemExit for a bad line."""
    days: dict[str, dict] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            day = json.loads(line)
            days[day["base"]] = day
        except (json.JSONDecodeError, KeyError, TypeError):
            raise SystemExit(f"{file}: line {number} is not of base_model.py --curve; take it out") from None
    if not days:
        raise SystemExit(f"{file}: holds no line; make some by base_model.py --curve")
    return list(days.values())


def name(day: dict) -> str:
    """The label that it was given, else the hash."""
    return str(day.get("label") or day["base"])


def plot(days: list[dict], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for pane, what in zip(panes, ("frechet", "recall"), strict=True):
        for engine in ("judge", "gate"):
            key = f"{what}_{engine}"
            measured = [(name(day), day[key]) for day in days if key in day]
            pane.plot(*zip(*measured, strict=True), marker="o", label=COLUMNS[key])
        pane.set_ylim(bottom=0)
        pane.grid(alpha=0.3)
        pane.legend()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
