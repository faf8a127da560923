"""What guidance and words that it never saw do to an embedded base's pictures, as markdown tables.

    python scripts/bench/base_prompts.py [--base FOLDER] [--count 60] [--guidance 1 2 3 4 6 8]

The prompts ask for one word each; prompts and seeds are the same in every row. A trigger stands before the class word,
as in a user's captions. How alike the picture is to the plain prompt's of the same seed says how neutral such words
start out; the row of other seeds is what two of its people have in common anyway.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "base"))  # the benchmark of bases reads ages with it

import base_against
import base_tables as tables
from base_samples import SAMPLING, Asked, asked_for, folder_of, make

from trainer.bases.base import EMBEDDED, Base, get_base
from trainer.records import RGB
from trainer.weights import NEW_BASE, cache_folder, fetch, needed

TRIGGERS = ("ohwx", "zvq", "alice")
BEHIND = ("playing the violin in a meadow", "by an unknown master, award winning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=EMBEDDED, help="diffusers folder, else the embedded one")
    parser.add_argument("--count", type=int, default=60, help="pictures a row")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--work", type=Path, default=Path("build/base_model"))
    args = parser.parse_args()
    fetch(cache_folder(), files=needed(NEW_BASE))
    base = get_base("portrait-tiny", str(args.base))
    plain = asked_for(args.count, base.prompt_set, [])
    print(f"Base {base.sha256[:12]}, {args.count} samples of {SAMPLING['steps']} steps a row:\n")
    print(by_guidance(base, plain, args.guidance, args.work), end="\n\n")
    print(by_words(base, plain, args.work))


def by_guidance(base: Base, plain: list[Asked], scales: list[float], work: Path) -> str:
    """A row a scale; pixels are clipped where a channel is 0 or 255."""
    body = []
    for scale in scales:
        samples, seen = looked_at(base, plain, work, scale)
        body.append((f"{scale:g}", *shares(plain, seen), mean(seen.pairs()), f"{clipped(samples):.1%}"))
    head = ("guidance", "face found", "prompt followed", "judge cosine of two", "pixels clipped")
    return tables.rows(head, body)


def by_words(base: Base, plain: list[Asked], work: Path) -> str:
    """A row for each word that the base never saw, and for the same prompts with other noise."""
    others = {
        **{f"trigger `{word}`": with_trigger(plain, word) for word in TRIGGERS},
        **{f"behind it `{words}`": [replace(one, text=f"{one.text}, {words}") for one in plain] for words in BEHIND},
        "other seeds": [replace(one, seed=one.seed + len(plain)) for one in plain],
    }
    _, first = looked_at(base, plain, work)
    body = [("plain", *shares(plain, first), "1")]
    for name, asked in others.items():
        _, seen = looked_at(base, asked, work)
        body.append((name, *shares(asked, seen), mean(same_place(first, seen))))
    return tables.rows(("prompt", "face found", "prompt followed", "judge cosine to the plain prompt's"), body)


def with_trigger(asked: list[Asked], word: str) -> list[Asked]:
    """`word` before each prompt's class word."""
    return [replace(one, text=one.text.replace(one.labels[0], f"{word} {one.labels[0]}", 1)) for one in asked]


def looked_at(
    base: Base, asked: list[Asked], work: Path, guidance: float = SAMPLING["guidance"]
) -> tuple[list[RGB], tables.Seen]:
    """The samples, made or read back, and what is found in them."""
    samples = make(base, asked, folder_of(work, base, guidance), guidance)
    return samples, base_against.look(samples, work / "seen")


def shares(asked: list[Asked], seen: tables.Seen) -> tuple[str, str]:
    """Of faces found and of prompts followed."""
    return tables.share(seen.found), tables.share(tables.flat(tables.followed(asked, seen.words)))


def mean(cosines: np.ndarray) -> str:
    """Their mean, or a dash for none."""
    return f"{cosines.mean():.3f}" if len(cosines) else "-"


def same_place(one: tables.Seen, other: tables.Seen) -> np.ndarray:
    """Judge cosines of the pictures at the same place, where both show a face."""
    both = one.found & other.found
    return (one.judge[both] * other.judge[both]).sum(1)


def clipped(samples: list[RGB]) -> float:
    """Share of pixels with a channel at either end."""
    pixels = np.stack(samples)
    return float(((pixels == 0) | (pixels == 255)).any(3).mean())


if __name__ == "__main__":
    main()
