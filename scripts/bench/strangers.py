"""How well prepare finds the strangers in mixed albums of real people.

    python scripts/bench/strangers.py --faces FOLDER [--subjects FOLDER…] [--half report] [--albums 300]

FOLDER holds parquet files with the columns `image.bytes` and `person`; `--subjects` adds folders with one folder of
photos a person. Owners of an album are people with at least 8 photos. An album has 8 to 24 photos, up to 30% of them
of other people: each of somebody else, or all of one (a partner), by turns. Every photo is looked at once, as the
stage does it and with its cache below `--work`, and the albums are drawn from what was seen.

Half of the people, by lot, are there to choose constants on (`--half develop`) and the others to report on: no photo of
the one half is ever in an album of the other.

What counts is the stage's own decision, `trainer.prepare.group.find_person` with the default limits: a photo is kept,
or is `other-person`. Photos that it refuses for another reason are counted apart.

Then, how often `prepare` finds two kinds of photos in albums of one owner, and in albums that mix two owners of those
who look most alike: a third to a half of the photos are the second one's.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from trainer.faces.base import get_detector, get_embedder
from trainer.prepare.doubts import TWO_KINDS_SAID
from trainer.prepare.group import Seen, find_person
from trainer.prepare.looks import Look, Looks, Sight
from trainer.prepare.quality import Limits
from trainer.records import PhotoFile
from trainer.sections import PrepareSection
from trainer.weights import cache_folder, fetch

OWNER_PHOTOS = 8
PER_PERSON = 30
OTHERS = 3000  # photos of people with fewer photos, to draw strangers from
MOST_STRANGERS = 0.3
PAIRS = 120  # of owners who look alike, in both halves together
DEFAULTS = PrepareSection()
LIMITS = Limits(**{name: getattr(DEFAULTS, name) for name in Limits.__slots__})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--subjects", type=Path, nargs="*", default=[])
    parser.add_argument("--half", choices=["develop", "report", "all"], default="report")
    parser.add_argument("--albums", type=int, default=300)
    parser.add_argument("--gate", default="dlib")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--same-person", type=float, default=DEFAULTS.same_person)
    parser.add_argument("--work", type=Path, default=Path("build/strangers"))
    args = parser.parse_args()

    fetch(cache_folder())
    people, seen = look_once(args)
    if args.half != "all":
        rows = np.flatnonzero(np.isin(people, half_of(people, args.half == "develop")))
        people, seen = people[rows], [seen[row] for row in rows]
    report(seen, people, args)
    report_kinds(seen, people, args)


def half_of(people: np.ndarray, first: bool) -> np.ndarray:
    """One half of the people, drawn by a lot that is always the same."""
    drawn = np.random.default_rng(12345).permutation(np.unique(people))
    return drawn[: len(drawn) // 2] if first else drawn[len(drawn) // 2 :]


def look_once(args: argparse.Namespace) -> tuple[np.ndarray, Seen]:
    """Whose photo each is, and what the stage saw in it; photos in which it sees no face are left out."""
    files = list(written(args.faces, args.subjects, args.work / "photos"))
    sight = Sight(get_detector(cache_folder()), get_embedder(args.gate, cache_folder()), DEFAULTS.max_pixels)
    looks = Looks(sight, args.work / args.gate)
    seen = [(file, look) for file, look in looks.through(files) if isinstance(look, Look) and look.faces]
    return np.array([file.name.rpartition("/")[0] for file, _ in seen]), seen


def written(faces: Path, subjects: list[Path], folder: Path) -> Iterator[PhotoFile]:
    """The photos as files, named PERSON/NUMBER; those of `subjects` stay where they are."""
    for person, index, data in photos_of(faces):
        path = folder / person / f"{index}.jpg"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield PhotoFile(f"{person}/{index}", path, hashlib.sha256(data).hexdigest())
    for one in (one for subject in subjects for one in sorted(subject.iterdir()) if one.is_dir()):
        for path in sorted(one.glob("*.jp*g"))[:PER_PERSON]:
            name = f"{one.parent.name}/{one.name}/{path.stem}"
            yield PhotoFile(name, path, hashlib.sha256(path.read_bytes()).hexdigest())


def photos_of(faces: Path) -> Iterator[tuple[str, int, bytes]]:
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
        for index, data in enumerate(pictures[: PER_PERSON if owner else 1 if others <= OTHERS else 0]):
            yield person, index, data


def report(seen: Seen, people: np.ndarray, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    owners = [person for person, count in zip(*np.unique(people, return_counts=True), strict=True) if count >= 8]
    print(f"{len(people)} photos of {len(set(people))} people, {len(owners)} with {OWNER_PHOTOS} photos or more")
    rejected = strangers = right = most = owned = 0
    aside: Counter[str] = Counter()
    for index in range(args.albums):
        album, foreign = draw(people, owners, index, rng)
        found = find_person([seen[row] for row in album], LIMITS, args.same_person)
        codes = {one.file: one.code for one in found.rejected}
        said = np.array([codes.get(seen[row][0].name, "") for row in album])
        judged = np.isin(said, ("", "other-person"))
        aside.update(said[~judged].tolist())
        out, foreign = (said == "other-person")[judged], foreign[judged]
        rejected, strangers, right = rejected + out.sum(), strangers + foreign.sum(), right + (out & foreign).sum()
        owned += (~foreign).sum()
        most += foreign.mean() >= 0.25
    print(
        f"{args.albums} albums ({most} with 25% strangers or more), {owned} photos of the owners, {strangers} of "
        f"strangers, {rejected} rejected; precision {right / rejected:.4f}, recall {right / strangers:.4f}"
    )
    print(f"not counted, refused for another reason: {dict(aside.most_common())}")


def report_kinds(seen: Seen, people: np.ndarray, args: argparse.Namespace) -> None:
    vectors = np.array([look.faces[0].embedding for _, look in seen])
    rng = np.random.default_rng(args.seed)
    counted = zip(*np.unique(people, return_counts=True), strict=True)
    of = [np.flatnonzero(people == person) for person, count in counted if count >= OWNER_PHOTOS]
    means = np.array([vectors[photos].mean(0) / np.linalg.norm(vectors[photos].mean(0)) for photos in of])
    pairs = [
        divmod(int(flat), len(of))
        for flat in np.argsort(-np.triu(means @ means.T, 1).ravel())[: PAIRS if args.half == "all" else PAIRS // 2]
    ]
    single = [rng.permutation(photos)[: int(rng.integers(OWNER_PHOTOS, 25))] for photos in of for _ in range(2)]
    double = []
    for first, other in pairs:
        count = int(rng.integers(10, 25))
        second = int(rng.integers(count // 3, count // 2 + 1))
        parts = rng.permutation(of[first])[: count - second], rng.permutation(of[other])[:second]
        double.append(np.concatenate(parts))
    for words, albums in (("one owner", single), ("two who look alike", double)):
        found = [find_person([seen[row] for row in album], LIMITS, args.same_person) for album in albums]
        said = sum(any(TWO_KINDS_SAID in doubt for doubt in one.doubts) for one in found)
        print(f"{len(albums)} albums of {words}: two kinds in {said / len(albums):.1%}")


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
