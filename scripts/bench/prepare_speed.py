"""How fast prepare looks at photos, what memory it takes, and whether a killed one comes to the same end.

    python scripts/bench/prepare_speed.py --pictures FOLDER [--photos 200]           photos a second
    python scripts/bench/prepare_speed.py --pictures FOLDER --album 100 --album 2000  peak memory, kill and resume

FOLDER holds photos of one person. From them, large JPEGs of 4032 x 3024 px (or of another `--width`) are made in
`--work`: each picture enlarged to half of the width, its edge repeated beyond it, with noise of its own. The sides take
turns, 20 photos at a time, so that other work on the machine slows all of them. A plain loop decodes whole, detects and
embeds, one photo after another; ours also hashes, measures and remembers. Both use the same engines with the same
threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from trainer.faces.align import aligned_to, dlib_chip_template
from trainer.faces.dlib import MODEL
from trainer.prepare.looks import THREADS, Look, Looks, SeenFace, Sight, look
from trainer.prepare.quality import measure
from trainer.records import RGB, PhotoFile
from trainer.run import sha256_of
from trainer.weights import cache_folder, fetch

BLOCK = 20
BROKEN = 0.05


@dataclass
class Side:
    """One way to look at photos, and what it took."""

    name: str
    work: Callable[[Sequence[PhotoFile]], list[list[SeenFace]]]
    seconds: float = 0.0
    processor_s: float = 0.0
    found: list[list[SeenFace]] = field(default_factory=list)

    def take(self, photos: Sequence[PhotoFile]) -> None:
        """Work through one block under the clock."""
        started, used = time.perf_counter(), time.process_time()
        self.found += self.work(photos)
        self.seconds += time.perf_counter() - started
        self.processor_s += time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--album", type=int, action="append", default=[], help="number of photos; may be repeated")
    parser.add_argument("--width", type=int, default=4032, help="of the photos, in pixels")
    parser.add_argument("--work", type=Path, default=Path("build/prepare_speed"))
    args = parser.parse_args()

    fetch(cache_folder())
    made = large_photos(args.pictures, 48 if args.album else args.photos, args.width, args.work / f"{args.width}")
    for count in args.album:
        killed_and_resumed(made, count, args.work)
    if not args.album:
        side_by_side(made, args.work)


def large_photos(pictures: Path, count: int, width: int, folder: Path) -> list[Path]:
    """`count` JPEGs of 4:3, this wide; those that lie there already are kept."""
    height = width * 3 // 4
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(p for p in pictures.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    made = [folder / f"{index:04d}.jpg" for index in range(count)]
    for index, path in enumerate(made):
        if path.is_file():
            continue
        rng = np.random.default_rng(index)
        with Image.open(sources[index % len(sources)]) as image:
            picture = ImageOps.contain(image.convert("RGB"), (width // 2, height), Image.Resampling.BICUBIC)
        right, below = (width - picture.width) // 2, (height - picture.height) // 2
        edges = (below, height - picture.height - below, right, width - picture.width - right)
        whole = cv2.copyMakeBorder(np.asarray(picture), *edges, cv2.BORDER_REPLICATE)
        noise = rng.integers(-8, 9, (height, width, 1), np.int16)
        part = path.with_suffix(".part")
        Image.fromarray((whole + noise).clip(0, 255).astype(np.uint8)).save(part, "JPEG", quality=92)
        part.replace(path)
    return made


def side_by_side(made: Sequence[Path], work: Path) -> None:
    """The table of photos a second, and how far the results are apart."""
    from trainer.faces.base import get_detector, get_embedder

    sight = Sight(get_detector(cache_folder()), get_embedder("dlib", cache_folder()), 120_000_000)
    photos = [PhotoFile(path.name, path, sha256_of(path)) for path in made]
    shutil.rmtree(work / "cache", ignore_errors=True)
    sides = [
        Side("plain loop, Pillow", lambda block: [plain(p.path, pillow, sight) for p in block]),
        Side("plain loop, OpenCV", lambda block: [plain(p.path, opencv, sight) for p in block]),
        Side("plain loop, Pillow, dlib's own network", own_network(sight)),
        Side("ours, one after another", lambda block: [list(look(p.path, sight).faces) for p in block]),
        Side(f"ours, {THREADS} threads", lambda block: remembered(block, sight, work / "cache")),
        Side("ours, the second time", lambda block: remembered(block, sight, work / "cache")),
    ]
    for side in sides:
        side.work(photos[:2])  # warm up
    shutil.rmtree(work / "cache")
    for start in range(0, len(photos), BLOCK):
        shutil.rmtree(work / "cache", ignore_errors=True)
        for side in sides:
            side.take(photos[start : start + BLOCK])
    first = sides[0]
    print("| side | photos/s | against the plain loop | processor s a photo |\n|---|---|---|---|")
    for side in sides:
        print(
            f"| {side.name} | {len(photos) / side.seconds:.1f} | {first.seconds / side.seconds:.1f}x "
            f"| {side.processor_s / len(photos):.3f} |"
        )
    for side in sides[1:]:
        print(f"{side.name}: {apart(first.found, side.found)}")


def pillow(path: Path) -> RGB:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def opencv(path: Path) -> RGB:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(np.uint8)


def plain(path: Path, decode: Callable[[Path], RGB], sight: Sight) -> list[SeenFace]:
    """Decode, detect, embed; and measure, which costs nothing beside them, to compare."""
    rgb_u8 = decode(path)
    faces = sorted(sight.detector.detect(rgb_u8), key=lambda face: -face.width)
    return [SeenFace(face, sight.gate.embed(rgb_u8, face), measure(rgb_u8, face, None)) for face in faces]


def own_network(sight: Sight) -> Callable[[Sequence[PhotoFile]], list[list[SeenFace]]]:
    """The plain loop with dlib's own wheel for the arithmetic of the gate."""
    import dlib
    from safetensors.numpy import load_file

    from trainer.faces.dlib import MEAN

    net, mean = dlib.face_recognition_model_v1(str(cache_folder() / MODEL)), load_file(MEAN)["mean"]

    def embedded(path: Path) -> list[SeenFace]:
        rgb_u8, seen = pillow(path), []
        for face in sorted(sight.detector.detect(rgb_u8), key=lambda face: -face.width):
            chip = aligned_to(rgb_u8, face.landmarks, dlib_chip_template(), 150)
            raw = np.asarray(net.compute_face_descriptor(chip), np.float32)
            vector = raw / np.linalg.norm(raw) - mean
            seen.append(SeenFace(face, vector / np.linalg.norm(vector), measure(rgb_u8, face, None)))
        return seen

    return lambda block: [embedded(photo.path) for photo in block]


def remembered(block: Sequence[PhotoFile], sight: Sight, cache: Path) -> list[list[SeenFace]]:
    looks = [seen for _, seen in Looks(sight, cache).through(block)]
    return [list(seen.faces) if isinstance(seen, Look) else [] for seen in looks]


def apart(plain: Sequence[Sequence[SeenFace]], ours: Sequence[Sequence[SeenFace]]) -> str:
    """How far the widest face of each photo is from that of the plain loop."""
    pairs = [(a[0], b[0]) for a, b in zip(plain, ours, strict=True) if a and b]
    same = sum(len(a) == len(b) for a, b in zip(plain, ours, strict=True))
    cosines = [float(a.embedding @ b.embedding) for a, b in pairs]
    scale = [a.face.width / b.face.width for a, b in pairs]  # boxes are in pixels of the picture as it was decoded
    ratio = [b.quality.sharpness / max(a.quality.sharpness, 1e-6) for a, b in pairs]
    return (
        f"as many faces in {same} of {len(plain)}; cosine of the vectors at least {min(cosines):.5f}, "
        f"mean {np.mean(cosines):.5f}; box widths {min(scale):.3f} to {max(scale):.3f} times; "
        f"sharpness {min(ratio):.2f} to {max(ratio):.2f} times"
    )


def killed_and_resumed(made: Sequence[Path], count: int, work: Path) -> None:
    """`trainer prepare` of `count` files, 5% of them broken: whole, and killed in the middle and resumed."""
    home = work / f"album-{count}"
    shutil.rmtree(home, ignore_errors=True)
    album(made, count, home / "photos")
    seconds, peak, bad = prepare(home, "whole")
    print(f"{count} files: {seconds:.0f} s, peak {peak / 2**20:.2f} GiB, rejected {bad}", flush=True)
    process = started(home, "killed")
    looks = home / "killed/someone/.cache/looks"
    while not looks.is_dir() or len(list(looks.glob("[!.]*"))) < count // 2:
        if process.poll() is not None:
            raise SystemExit("it ended before it could be killed")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = len(list(looks.glob("[!.]*")))
    seconds, _, _ = prepare(home, "killed")
    same = stage_files(home / "whole") == stage_files(home / "killed")
    print(f"{count} files, killed after {left}: resumed in {seconds:.0f} s, the same result: {same}", flush=True)
    shutil.rmtree(home)


def album(made: Sequence[Path], count: int, folder: Path) -> None:
    """Copies that differ in a comment, so that each is a photo of its own; broken ones end early."""
    folder.mkdir(parents=True)
    for index in range(count):
        data = made[index % len(made)].read_bytes()
        note = f"{index:06d}".encode()
        data = data[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + data[2:]
        if random.Random(index).random() < BROKEN:
            data = data[: random.Random(index).randrange(len(data) // 2)]
        (folder / f"{index:06d}.jpg").write_bytes(data)


def started(home: Path, out: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trainer", "prepare", "someone", "--photos", "photos", "--out", out, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, env=environment)


def prepare(home: Path, out: str) -> tuple[float, int, dict[str, int]]:
    """Seconds, peak memory in KiB and the counts of rejected files of one whole command."""
    begun, process = time.monotonic(), started(home, out)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"prepare failed: {said['error']}")
    return time.monotonic() - begun, used.ru_maxrss, said["result"]["stages"]["1_prepare"]["rejected"]


def stage_files(runs: Path) -> dict[str, str]:
    """Hashes of what the stage wrote, but `stage.json`, which holds its seconds."""
    stage = runs / "someone/latest/1_prepare"
    files = (path for path in stage.rglob("*") if path.is_file() and path.name != "stage.json")
    return {str(path.relative_to(stage)): sha256_of(path) for path in files}


if __name__ == "__main__":
    main()
