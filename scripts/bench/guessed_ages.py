"""How far the guessed ages and sexes of the captions can be trusted, on pictures whose source says them.

    python scripts/bench/guessed_ages.py --pictures FOLDER [--cache build/base]

The network that guesses never saw them as far as its makers say. "Clear" guesses are those that become words of a
caption where the source says nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "base"))  # the trainings' own way to read the pictures

from ages import AGE_WORDS, age_word
from base_tables import rows, share
from captions import SEX_WORDS, guessed_age, guessed_sex
from kept_faces import ages_in
from pictures import load_pixels, read_pictures

from trainer.weights import NEW_BASE, cache_folder, fetch, needed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/base"), help="of the decoded pictures")
    parser.add_argument("--work", type=Path, default=Path("build/base_model/seen"))
    args = parser.parse_args()
    fetch(cache_folder(), files=needed(NEW_BASE))
    pixels = load_pixels(args.pictures, args.cache / "pixels.npy")
    told = [(picture.source, picture.facts) for picture in read_pictures(args.pictures)]
    guessed = ages_in(pixels, cache_folder(), args.work).tolist()
    known = [(*said, *guess) for said, guess in zip(told, guessed, strict=True) if not math.isnan(guess[0])]
    body = []
    for word in AGE_WORDS:
        guesses = [years for _, facts, years, _ in known if "age" in facts and age_word(int(facts["age"])) == word]
        clear = [one for years in guesses for one in guessed_age(years)]
        body.append((word, share([age_word(y) == word for y in guesses]), share([one == word for one in clear])))
    for source in dict.fromkeys(source for source, *_ in known):
        for sex, word in SEX_WORDS.items():
            guesses = [man for kind, facts, _, man in known if (kind, facts.get("sex")) == (source, sex)]
            clear = [one for man in guesses if (one := guessed_sex(man)) != "person"]
            body.append((
                f"{word}, {source}", share([(man > 0.5) == (word == "man") for man in guesses]),
                share([one == word for one in clear]),
            ))  # fmt: skip
    apart = [years - int(facts["age"]) for _, facts, years, _ in known if "age" in facts]
    print(rows(("as the source says", "every guess", "clear guesses"), body))
    print(f"\n{np.mean(np.abs(apart)):.1f} years off on average, {np.mean(apart):+.1f} in the mean, of {len(apart)}.")


if __name__ == "__main__":
    main()
