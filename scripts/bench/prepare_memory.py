"""Peak memory of `trainer prepare` for albums of several sizes, and whether it grows with them.

    python scripts/bench/prepare_memory.py [--pictures FOLDER] [--photos 100 500 2000] [--width 2016] [--set KEY=VALUE]…

FOLDER holds photos of one person (the demo's by default). Each photo of an album is one of them turned, zoomed,
shifted, mirrored and lit a little otherwise, with noise of its own, before a wall of this width and three quarters of
it as high, so that hardly any two are the same shot; 5% of the files end early. `prepare.burst` is 1: faces that look
the same do not make a burst of them. The time is of this machine, with whatever else it did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from trainer.records import RGB
from trainer.weights import cache_folder, fetch

ROOT = Path(__file__).resolve().parents[2]
BROKEN = 0.05
LIMIT_GB = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=ROOT / "subjects/demo/photos")
    parser.add_argument("--photos", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--width", type=int, default=2016, help="of the photos, in pixels")
    parser.add_argument("--set", action="append", default=[], help="as of trainer prepare")
    parser.add_argument("--work", type=Path, default=Path("build/prepare_memory"))
    args = parser.parse_args()

    fetch(cache_folder())
    sources = [
        read(path) for path in sorted(args.pictures.iterdir()) if path.suffix.lower() in {".jpg", ".jpeg", ".png"}
    ]
    print("| photos | broken | different shots | rejected | seconds | peak GB |\n|---|---|---|---|---|---|")
    peaks = []
    for count in args.photos:
        home = args.work / f"{count}"
        shutil.rmtree(home, ignore_errors=True)
        broken = album(sources, count, args.width, home / "photos")
        seconds, peak, facts = prepared(home, args.set)
        peaks.append(peak / 1e9)
        rejected = ", ".join(f"{number} {code}" for code, number in facts["rejected"].items())
        print(f"| {count} | {broken} | {facts['shots']} | {rejected} | {seconds:.0f} | {peaks[-1]:.2f} |", flush=True)
        shutil.rmtree(home)
    most, grown = max(peaks), peaks[-1] / peaks[0]
    print(f"most {most:.2f} GB, under {LIMIT_GB}: {most < LIMIT_GB}; the last over the first {grown:.2f}")


def read(path: Path) -> RGB:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def album(sources: Sequence[RGB], count: int, width: int, folder: Path) -> int:
    """Write `count` JPEGs; how many of them are broken."""
    folder.mkdir(parents=True)
    broken = 0
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        Image.fromarray(varied(sources[index % len(sources)], width, index)).save(path, quality=90)
        if random.Random(index).random() < BROKEN:
            data = path.read_bytes()
            path.write_bytes(data[: random.Random(index).randrange(len(data) // 2)])
            broken += 1
    return broken


def varied(picture: RGB, width: int, seed: int) -> RGB:
    """(3/4 width, width, 3) uint8: the picture as another shot of the same face."""
    rng, height = np.random.default_rng(seed), width * 3 // 4
    if rng.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
    scale = height * rng.uniform(0.55, 0.9) / max(picture.shape[:2])
    matrix = cv2.getRotationMatrix2D((picture.shape[1] / 2, picture.shape[0] / 2), rng.uniform(-12, 12), scale)
    matrix[:, 2] += (width * rng.uniform(0.35, 0.65), height * rng.uniform(0.45, 0.55))
    matrix[:, 2] -= (picture.shape[1] / 2, picture.shape[0] / 2)
    wall = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    placed = cv2.warpAffine(picture, matrix, (width, height), dst=wall, borderMode=cv2.BORDER_TRANSPARENT)
    noise = rng.integers(-4, 5, (height, width, 1), np.int16)
    return (placed * rng.uniform(0.8, 1.15) + noise).clip(0, 255).astype(np.uint8)


def prepared(home: Path, values: Sequence[str]) -> tuple[float, int, dict[str, Any]]:
    """Seconds, peak resident bytes and the stage's facts of one command in a process of its own."""
    overrides = [word for value in ["prepare.burst=1", *values] for word in ("--set", value)]
    command = [sys.executable, "-m", "trainer", "prepare", "someone", "--photos", "photos", "--json", *overrides]
    begun = time.monotonic()
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"prepare failed: {said['error']}")
    return time.monotonic() - begun, used.ru_maxrss * 1024, said["result"]["stages"]["1_prepare"]


if __name__ == "__main__":
    main()
