"""How well prepare finds the strangers in mixed albums of real people.

    python scripts/bench/strangers.py --faces FOLDER [--subjects FOLDER…] [--albums 300] [--work build/strangers]

FOLDER holds parquet files with the columns `image.bytes` and `person`; `--subjects` adds folders with one folder of
photos a person. Owners of an album are people with at least 8 photos. An album has 8 to 24 photos, up to 30% of them
of other people: each of somebody else, or all of one (a partner), by turns. Every photo is looked at once, and the
albums are drawn from what was seen. Pictures without a face are left out: `no-face` has its own code.

Then, how often `prepare` finds two kinds of photos in albums of one owner, and in albums that mix two owners of those
who look most alike: a third to a half of the photos are the second one's.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from trainer.faces.base import Detector, Embedder, get_detector, get_embedder
from trainer.prepare.doubts import MIN_KIND, TWO_KINDS, two_kinds
from trainer.prepare.identity import consensus_of
from trainer.sections import PrepareSection
from trainer.weights import cache_folder, fetch

OWNER_PHOTOS = 8
PER_PERSON = 30
OTHERS = 3000  # photos of people with fewer photos, to draw strangers from
MOST_STRANGERS = 0.3
PAIRS = 120  # of owners who look alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--subjects", type=Path, nargs="*", default=[])
    parser.add_argument("--albums", type=int, default=300)
    parser.add_argument("--gate", default="dlib")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--same-person", type=float, default=PrepareSection().same_person)
    parser.add_argument("--work", type=Path, default=Path("build/strangers"))
    args = parser.parse_args()

    fetch(cache_folder())
    args.work.mkdir(parents=True, exist_ok=True)
    seen = args.work / f"{args.gate}.npz"
    if not seen.is_file():
        look_once(args, seen)
    with np.load(seen) as kept:
        vectors, people = kept["vectors"], kept["people"]
    report(vectors, people, args)
    report_kinds(vectors, people, args)


def look_once(args: argparse.Namespace, seen: Path) -> None:
    """The gate's vector of the largest face of every photo, and whose photo it is."""
    detector, gate = get_detector(cache_folder()), get_embedder(args.gate, cache_folder())
    vectors, people = [], []
    for person, image in photos_of(args.faces, args.subjects):
        vector = embedded(np.asarray(image.convert("RGB")), detector, gate)
        if vector is not None:
            vectors.append(vector)
            people.append(person)
    np.savez(seen, vectors=np.array(vectors, np.float32), people=np.array(people))


def embedded(rgb_u8: np.ndarray, detector: Detector, gate: Embedder) -> np.ndarray | None:
    face = max(detector.detect(rgb_u8), key=lambda found: found.width, default=None)
    return None if face is None else gate.embed(rgb_u8, face)


def photos_of(faces: Path, subjects: list[Path]) -> Iterator[tuple[str, Image.Image]]:
    """Photos of the owners, at most `PER_PERSON` each, and `OTHERS` of other people."""
    by_person: dict[str, list[bytes]] = defaultdict(list)
    for path in sorted(faces.glob("*.parquet")):
        table = pq.read_table(path)
        if "person" in table.schema.names:
            for row in table.select(["image", "person"]).to_pylist():
                by_person[f"{row['person']}"].append(row["image"]["bytes"])
    others = 0
    for person, pictures in sorted(by_person.items()):
        owner = len(pictures) >= OWNER_PHOTOS
        others += not owner
        for data in pictures[: PER_PERSON if owner else 1 if others <= OTHERS else 0]:
            yield person, Image.open(io.BytesIO(data))
    for folder in (one for subject in subjects for one in sorted(subject.iterdir()) if one.is_dir()):
        for path in sorted(folder.glob("*.jp*g"))[:PER_PERSON]:
            yield f"{folder.parent.name}/{folder.name}", Image.open(path)


def report(vectors: np.ndarray, people: np.ndarray, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    owners = [person for person, count in zip(*np.unique(people, return_counts=True), strict=True) if count >= 8]
    print(f"{len(people)} faces of {len(set(people))} people, {len(owners)} of them with {OWNER_PHOTOS} photos or more")
    rejected = strangers = right = most = 0
    for index in range(args.albums):
        album, foreign = draw(people, owners, index, rng)
        person = consensus_of(list(vectors[album]), args.same_person)
        out = vectors[album] @ person.vector < person.threshold
        rejected, strangers, right = rejected + out.sum(), strangers + foreign.sum(), right + (out & foreign).sum()
        most += foreign.mean() >= 0.25
    print(
        f"{args.albums} albums ({most} with 25% strangers or more): {strangers} strangers, {rejected} rejected; "
        f"precision {right / rejected:.4f}, recall {right / strangers:.4f}"
    )


def report_kinds(vectors: np.ndarray, people: np.ndarray, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    counted = zip(*np.unique(people, return_counts=True), strict=True)
    of = [np.flatnonzero(people == person) for person, count in counted if count >= OWNER_PHOTOS]
    means = np.array([vectors[photos].mean(0) / np.linalg.norm(vectors[photos].mean(0)) for photos in of])
    pairs = [divmod(int(flat), len(of)) for flat in np.argsort(-np.triu(means @ means.T, 1).ravel())[:PAIRS]]
    single = [rng.permutation(photos)[: int(rng.integers(OWNER_PHOTOS, 25))] for photos in of for _ in range(2)]
    double = []
    for first, other in pairs:
        count = int(rng.integers(10, 25))
        second = int(rng.integers(count // 3, count // 2 + 1))
        parts = rng.permutation(of[first])[: count - second], rng.permutation(of[other])[:second]
        double.append(np.concatenate(parts))
    for words, albums in (("one owner", single), ("two who look alike", double)):
        said = sum(tells_two_kinds(vectors[album], args.same_person) for album in albums)
        print(f"{len(albums)} albums of {words}: two kinds in {said / len(albums):.1%}")


def tells_two_kinds(vectors: np.ndarray, same_person: float) -> bool:
    """Whether the photos that are kept of this album fall into two kinds."""
    person = consensus_of(list(vectors), same_person)
    contrast, sizes = two_kinds(list(vectors[vectors @ person.vector >= person.threshold]))
    return contrast > TWO_KINDS and min(sizes) >= MIN_KIND


def draw(people: np.ndarray, owners: list[str], index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Photo indices of one album, shuffled, and which of them show a stranger."""
    owner = owners[int(rng.integers(len(owners)))]
    own = np.flatnonzero(people == owner)
    own = rng.permutation(own)[: int(rng.integers(OWNER_PHOTOS, 25))]
    count = round(rng.uniform(0, MOST_STRANGERS) * len(own) / (1 - MOST_STRANGERS))
    count = min(count, int(MOST_STRANGERS * (len(own) + count)))
    partners = [other for other in owners if other != owner]
    pool = people != owner if index % 2 else people == partners[int(rng.integers(len(partners)))]
    foreign = rng.permutation(np.flatnonzero(pool))[:count]
    album = np.concatenate([own, foreign])
    order = rng.permutation(len(album))
    return album[order], np.isin(album, foreign)[order]


if __name__ == "__main__":
    main()
