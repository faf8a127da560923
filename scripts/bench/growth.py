"""How the cost of a step grows: its time with the batch, the rank and the picture, its memory with the rank.

    python scripts/bench/growth.py [--steps 5] [--out build/growth.json] [--plot docs/explanation/growth.svg]

Every point is a fit of its own process on the embedded base, one after the other: one thing differs from a batch of 4
at rank 16 and 128 px. The first step does not count; the peak is that of the other steps, or on a GPU what torch
holds. What is in `--out` already is read back. `--plot` needs `pip install matplotlib`. Exponents are slopes of log
cost over log size between the two largest sizes: 1 is growth in step.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from step_time import timed_fit

AXES = {
    "batch": [1, 2, 4, 8, 16, 32],
    "rank": [4, 16, 32, 64, 128, 256],
    "pixels a side": [64, 96, 128, 192, 256],
}
USUAL = {"batch": 4, "rank": 16, "pixels a side": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/growth.json"))
    parser.add_argument("--plot", type=Path, help="SVG to draw")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measured(args.point, args.steps)))
        return
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    for axis, sizes in AXES.items():
        for size in sizes:
            kept[f"{axis} {size}"] = kept.get(f"{axis} {size}") or point(axis, size, args.steps)
            args.out.write_text(json.dumps(kept))
    found = {axis: [{"size": size} | kept[f"{axis} {size}"] for size in sizes] for axis, sizes in AXES.items()}
    for axis, rows in found.items():
        for row in rows:
            print(f"| {axis} | {row['size']} | {row['median_s']:.2f} | {row['peak_gb']:.2f} |")
        print(f"{axis}: time to the power of {slope(rows, 'median_s'):.2f}, peak of {slope(rows, 'peak_gb'):.2f}")
    if args.plot:
        plot(found, args.plot)


def point(axis: str, size: int, steps: int) -> dict[str, float]:
    """One fit, in a process of its own."""
    differs = json.dumps(USUAL | {axis: size})
    command = [sys.executable, __file__, "--steps", str(steps), "--point", differs]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(point: dict[str, int], steps: int) -> dict[str, float]:
    """Seconds a step and the peak, of this process."""
    from trainer.bases.base import get_base

    base = get_base("portrait-tiny", None, precision="fp32", size_px=point["pixels a side"])
    said = {"batch_size": point["batch"], "rank": point["rank"], "alpha": point["rank"]}
    with tempfile.TemporaryDirectory() as name:
        return timed_fit("portrait-tiny", base, steps, Path(name), said)


def slope(rows: list[dict[str, float]], what: str) -> float:
    """Of log cost over log size, at the large end."""
    before, last = rows[-2:]
    return math.log(last[what] / before[what]) / math.log(last["size"] / before["size"])


def plot(found: dict[str, list[dict[str, float]]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(2, len(found), figsize=(10, 5.5), sharex="col", layout="constrained")
    for column, (axis, rows) in enumerate(found.items()):
        sizes = [row["size"] for row in rows]
        for pane, what, label in zip(panes[:, column], ("median_s", "peak_gb"), ("s a step", "peak, GB"), strict=True):
            pane.plot(sizes, [row[what] for row in rows], marker="o", color="#1f5fa8")
            pane.set_ylim(bottom=0)
            pane.set_ylabel(label if column == 0 else "")
            pane.grid(alpha=0.3)
        panes[1, column].set_xlabel(axis)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
