"""Write the photos of the people whom no base saw, a folder each, for `scripts/bench/subjects.py`.

    python scripts/base/held_out_people.py --pictures FOLDER --out build/held_out

They are the `SUBJECTS` of the split that every training here keeps to: people with enough photos to fit an adapter to
some and judge it on the others. The photos are whole, as their source has them, and are named by number alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from pictures import held_out_split, people_of, read_pictures
from PIL import ImageOps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/held_out"))
    args = parser.parse_args()
    subjects = held_out_split(people_of(args.pictures)).subjects
    if not subjects:
        raise SystemExit(f"{args.pictures}: holds nobody with enough photos; give `person` to each picture's line")
    print(f"{write_photos(args.pictures, subjects, args.out)} photos of {len(subjects)} people in {args.out}")


def write_photos(pictures: Path, subjects: list[np.ndarray], out: Path) -> int:
    """Write each of the `subjects`' pictures as a PNG file, `h01/01.png` and so on; how many there are."""
    files = {
        int(row): out / f"h{number:02}" / f"{place:02}.png"
        for number, rows in enumerate(subjects, 1)
        for place, row in enumerate(rows, 1)
    }
    for row, picture in enumerate(read_pictures(pictures)):
        if row in files:
            files[row].parent.mkdir(parents=True, exist_ok=True)
            ImageOps.exif_transpose(picture.image).convert("RGB").save(files[row])
    return len(files)


if __name__ == "__main__":
    main()
