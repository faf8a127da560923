"""Read the training pictures of the embedded base: parquet files or an imagefolder, decoded once to 128 px.

A source is either a folder of parquet files (columns `image.bytes`, `source` and any of `sex`, `expression`,
`group`, `age`, `country`) or a Hugging Face imagefolder (`metadata.jsonl` beside the pictures). The framing puts
the face at about 60% of the width, which is what `trainer prepare` makes of a user's photo.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

SIZE_PX = 128
# What a training's folder keeps of the pictures, the same in each.
DECODED = ("pixels.npy", "words.json", "whole_pixels.npy", "whole_words.json")
HELD_OUT = 500  # people whom no training script sees, one picture each; a tenth of a small set
SUBJECTS = 10  # people whom no training script sees either, each with photos enough to fit an adapter and judge it
SUBJECT_PHOTOS = range(20, 31)

# Left, top, right, bottom of the square to keep, as fractions of the picture, by source.
FRAMINGS: dict[str, tuple[float, float, float, float]] = {
    "lfw": (0.12, 0.12, 0.88, 0.88),
    "synthetic": (0.13, 0.20, 0.87, 0.94),
    "portrait-cc0": (0.25, 0.06, 0.75, 0.56),
}
WHOLE = (0.0, 0.0, 1.0, 1.0)
ALSO_WHOLE = ("synthetic", "portrait-cc0")  # sources whose words few wide shots would have otherwise
EVERY = 2  # so many of their pictures, one is shown whole as well


@dataclass(frozen=True, slots=True)
class Picture:
    """One training picture: RGB pixels before framing, and what its source says about it."""

    image: Image.Image
    source: str
    person: int | None
    facts: dict[str, str]


def read_pictures(folder: Path) -> Iterator[Picture]:
    """Yield every picture below `folder` in a fixed order, whichever of the two layouts it has."""
    parquets = sorted(folder.glob("*.parquet"))
    if parquets:
        yield from _read_parquets(parquets)
    elif (folder / "metadata.jsonl").exists():
        yield from _read_imagefolder(folder)
    else:
        raise SystemExit(f"{folder}: holds neither *.parquet nor metadata.jsonl")


def framed(picture: Picture, size_px: int = SIZE_PX, whole: bool = False) -> npt.NDArray[np.uint8]:
    """(size, size, 3) uint8 RGB of the picture's square framing, or of the `whole` picture."""
    upright = ImageOps.exif_transpose(picture.image)
    width, height = upright.size
    left, top, right, bottom = WHOLE if whole else FRAMINGS.get(picture.source, WHOLE)
    box = (left * width, top * height, right * width, bottom * height)
    rgb = upright.convert("RGB").resize((size_px, size_px), Image.Resampling.LANCZOS, box)
    return np.asarray(rgb)


@dataclass(frozen=True, slots=True)
class Split:
    """Which pictures a training may see, by index; a person is on one side only.

    Attributes:
        train: sorted.
        held_out: one picture of each held-out person, in random order. Nothing uses the rest of their pictures.
        subjects: all pictures of each person to fit an adapter to; none in a set without people of `SUBJECT_PHOTOS`.
    """

    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    subjects: list[npt.NDArray[np.int64]]


def held_out_split(people: npt.NDArray[np.int64]) -> Split:
    """Draw the people to hold out, the same every time; `people` is (n,), the number of each picture's person.

    Raises SystemExit where all pictures show one person.
    """
    rng = np.random.default_rng(0)
    numbers, counts = np.unique(people, return_counts=True)
    if len(numbers) < 2:
        raise SystemExit("the pictures show one person alone: a base needs others, and somebody to be checked on")
    eligible = numbers[np.isin(counts, SUBJECT_PHOTOS)]
    tenth = len(numbers) // 10
    subjects = rng.permutation(eligible)[: min(SUBJECTS, tenth, len(eligible) // 2)]
    others = rng.permutation(np.setdiff1d(numbers, subjects))
    unseen = others[: min(HELD_OUT, max(1, tenth))]
    seen = others[len(unseen) :]
    return Split(
        np.flatnonzero(np.isin(people, seen)),
        np.array([rng.choice(np.flatnonzero(people == person)) for person in unseen], np.int64),
        [np.flatnonzero(people == person) for person in subjects],
    )


def numbered(people: list[tuple[str, int | None]]) -> np.ndarray:
    """(n,) one number a person; pictures of nobody known count as as many people."""
    numbers: dict[object, int] = {}
    return np.array(
        [
            numbers.setdefault((source, index, "unknown") if person is None else (source, person), len(numbers))
            for index, (source, person) in enumerate(people)
        ],
        np.int64,
    )


def one_each_first(rows: npt.NDArray[np.int64], people: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`rows` with the first picture of everybody before anybody's second, and so on; else in the order given."""
    met: Counter[int] = Counter()
    turns = []
    for person in people[rows].tolist():
        turns.append(met[person])
        met[person] += 1
    return rows[np.argsort(turns, kind="stable")]


def people_of(pictures: Path) -> npt.NDArray[np.int64]:
    """(n,) the number of each picture's person, in reading order."""
    return numbered([(picture.source, picture.person) for picture in read_pictures(pictures)])


def load_pixels(pictures: Path, cache: Path) -> npt.NDArray[np.uint8]:
    """(n, 128, 128, 3) uint8, decoded once and memory-mapped afterwards."""
    if not cache.exists():
        _decode(read_pictures(pictures), cache)
    return np.load(cache, mmap_mode="r")


def also_whole(sources: npt.NDArray[np.str_], train: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which of the pictures `train` are shown whole as well, by index: every so many of `ALSO_WHOLE`."""
    return train[np.isin(sources[train], ALSO_WHOLE)][::EVERY]


def load_whole(pictures: Path, rows: npt.NDArray[np.int64], cache: Path) -> npt.NDArray[np.uint8]:
    """(len(rows), 128, 128, 3) uint8 of the whole pictures `rows`, decoded once and memory-mapped afterwards."""
    if not cache.exists():
        chosen = set(rows.tolist())
        _decode((one for row, one in enumerate(read_pictures(pictures)) if row in chosen), cache, whole=True)
    return np.load(cache, mmap_mode="r")


def link(folder: Path, out: Path, names: Iterable[str] = DECODED) -> None:
    """Put links to the files of `folder` with these names into `out`, where it has none and they are there."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).exists() and not (out / name).exists():
            (out / name).symlink_to((folder / name).resolve())


def save_whole(file: Path, rows: npt.NDArray[np.generic]) -> None:
    """Write `rows` to a .npy file, all or nothing."""
    part = file.with_suffix(".part.npy")
    np.save(part, rows)
    part.replace(file)


def to_tensor(rgb_u8: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(n, height, width, 3) uint8 to (n, 3, height, width) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(rgb_u8)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _decode(pictures: Iterable[Picture], cache: Path, whole: bool = False) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as threads:  # the decoders work outside the interpreter's lock
        rows = list(threads.map(lambda picture: framed(picture, whole=whole), pictures))
    save_whole(cache, np.stack(rows) if rows else np.empty((0, SIZE_PX, SIZE_PX, 3), np.uint8))


def _read_parquets(paths: list[Path]) -> Iterator[Picture]:
    import pyarrow.parquet as pq

    for path in paths:
        for row in pq.read_table(path).to_pylist():
            image = Image.open(io.BytesIO(row.pop("image")["bytes"]))
            person = row.pop("person", None)
            facts = {key: str(value) for key, value in row.items() if value is not None}
            yield Picture(image, facts.pop("source"), person, facts)


def _read_imagefolder(folder: Path) -> Iterator[Picture]:
    for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        path = folder / row.pop("file_name")
        try:
            image = Image.open(io.BytesIO(path.read_bytes()))
        except OSError as error:
            raise SystemExit(
                f"{path}: cannot be read as a picture ({error}); mend it or take it out of the list"
            ) from None
        person = row.pop("person", None)
        facts = {key: str(value) for key, value in row.items() if value is not None}
        yield Picture(image, facts.pop("source", folder.name), person, facts)
