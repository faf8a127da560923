"""What a lower rank costs in likeness: a finished run's adapter, cut by SVD and scored again at every rank.

    python scripts/bench/rank_cut.py runs/alice/latest [--ranks 64 32 16 8 4] [--photos FOLDER] [--new]

Every file is scored by `trainer evaluate --adapter` with the run's own recipe, on the run's own sealed photos, which
are found in FOLDER (else `subjects/alice/photos`) by their hashes. `--new` takes all photos in FOLDER instead: they
must be others than the run's. The full adapter is scored in the same way, so the rows differ in the rank alone. What
was scored is kept in `--out` and read back.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from trainer.adapter import describe
from trainer.album import CACHE, read_album
from trainer.console import Console
from trainer.export.convert import convert
from trainer.finished import read_lock
from trainer.jobs import EVALUATE, EXPORT
from trainer.pipeline import Pipeline
from trainer.recipe import Layered, load_recipe
from trainer.subject import Subject, find_subject

HEADER = "| rank | MB | energy kept | error of the update | likeness (95%) | of_ceiling (95%) | of the full one's |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 32, 16, 8, 4])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--new", action="store_true", help="score on all photos in FOLDER")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as of trainer evaluate")
    parser.add_argument("--out", type=Path, default=Path("build/rank_cut"))
    args = parser.parse_args()
    run = args.run.resolve()
    lock, whole = read_lock(run), run / EXPORT / f"{run.parent.name}.safetensors"
    subject = find_subject(run.parent.name, Path.cwd(), args.photos)
    sealed = None if args.new else set(lock["split"]["report"])
    with tempfile.TemporaryDirectory() as scratch:
        photos = subject.photos if sealed is None else pick(subject.photos, sealed, Path(scratch))
        recipe = locked_recipe(lock, Path(scratch) / "recipe.yaml", args.overrides)
        rows = []
        for file, cut in adapters(whole, args.ranks, Path(scratch)):
            card = score(file, Subject(subject.name, photos), recipe, args.out)
            rows.append({"rank": max(describe(file)["ranks"]), "bytes": file.stat().st_size, **cut, **card["identity"]})
            print(line(rows[-1], rows[0]) if len(rows) > 1 else f"{HEADER}\n|{'---|' * 7}\n{line(rows[0], rows[0])}")
    count = card["photos"]["report"]
    print(f"\n{card['base']['name']} {lock['base_sha256'][:12]}, recipe {lock['recipe_sha256'][:12]}, {count} photos")


def adapters(whole: Path, ranks: list[int], folder: Path) -> list[tuple[Path, dict[str, float]]]:
    """The adapter as it is, then cut to each lower rank, with what the cut kept and lost on average."""
    files = [(whole, {"kept": 1.0, "error": 0.0})]
    for rank in sorted((r for r in ranks if r < max(describe(whole)["ranks"])), reverse=True):
        said = convert(whole, rank=rank, out=folder / f"r{rank}.safetensors")
        files.append((Path(said["out"]), {"kept": said["retained"]["mean"], "error": said["error"]["mean"]}))
    return files


def pick(photos: Path, sealed: set[str], scratch: Path) -> Path:
    """A folder with the photos of these hashes. Exits with a word for photos that are not there."""
    folder = scratch / "photos"
    folder.mkdir()
    album = read_album(photos, scratch / CACHE)
    found = {photo.sha256: album.paths()[photo.name] for photo in album.photos if photo.sha256 in sealed}
    if len(found) < len(sealed):
        raise SystemExit(f"{photos} lacks {len(sealed) - len(found)} of the {len(sealed)} photos that the run sealed")
    for index, digest in enumerate(sorted(found)):
        shutil.copyfile(found[digest], folder / f"{index:03d}{found[digest].suffix}")
    return folder


def locked_recipe(lock: dict[str, Any], file: Path, overrides: list[str]) -> Layered:
    file.write_text(yaml.safe_dump(lock["recipe"]))
    return load_recipe(str(file), overrides)


def score(adapter: Path, subject: Subject, recipe: Layered, out: Path) -> dict[str, Any]:
    """The scorecard of `trainer evaluate --adapter`."""
    out.mkdir(parents=True, exist_ok=True)
    summary = Pipeline(subject, recipe, out, Console(), adapter=adapter).run(EVALUATE)
    card: dict[str, Any] = json.loads(Path(summary["scorecard"]).read_text())
    return card


def line(row: dict[str, Any], whole: dict[str, Any]) -> str:
    def placed(value: float | None, interval: list[float | None]) -> str:
        low, high = interval
        return "null" if value is None or low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"

    share = row["of_ceiling"] / whole["of_ceiling"] if row["of_ceiling"] is not None and whole["of_ceiling"] else None
    cells = [
        str(row["rank"]), f"{row['bytes'] / 1e6:.2f}", f"{row['kept']:.4f}", f"{row['error']:.4f}",
        placed(row["mean"], row["ci95"]), placed(row["of_ceiling"], row["of_ceiling_ci95"]),
        "null" if share is None else f"{share:.1%}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
