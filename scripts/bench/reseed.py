"""How far other seeds move the score of a finished run, against the interval that it states.

    python scripts/bench/reseed.py runs/alice/latest [--photos FOLDER] [--times 20] [--work build/reseed]

The exported checkpoint makes the report's pictures again, each time with seeds that nobody has used yet, and the judge
looks at them; photos, floor and ceiling stay. An interval of 95% should hold at least 19 of 20. Pictures are kept below
`--work`, so an interrupted try goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.album import read_album
from trainer.bases.base import Base, get_base, resolve_precision
from trainer.bases.sampling import Sampling, read_pictures, sample_prompts
from trainer.console import Console
from trainer.evaluate import calibrate
from trainer.evaluate.gallery import Gallery
from trainer.evaluate.judge import look, look_at_album
from trainer.evaluate.prompts import report_prompts
from trainer.evaluate.scorecard import Reals, reals_of
from trainer.evaluate.strength import weaker
from trainer.faces.base import Detector, Embedder, get_detector, get_embedder
from trainer.fit.checkpoint import find_checkpoints
from trainer.prepare.stage import read_framed, read_split
from trainer.recipe import Recipe
from trainer.records import Prompt
from trainer.run import fingerprint_of
from trainer.subject import find_subject
from trainer.weights import cache_folder

FIRST_SEED = 100_000  # no evaluation comes near it


@dataclass(frozen=True)
class Scorer:
    """All that a score hangs on but the seeds."""

    base: Base
    detector: Detector
    judge: Embedder
    reals: Reals
    prompts: list[Prompt]
    sampling: Sampling
    work: Path

    def score(self, seeds: range) -> float:
        """`of_ceiling` of the pictures from these seeds."""
        folder = self.work / str(seeds.start)
        label = f"seeds from {seeds.start}"
        sample_prompts(self.base, self.prompts, seeds, self.sampling, folder, Console(), label)
        pictures = read_pictures(folder, self.prompts, seeds)
        seen = look((picture for row in pictures for picture in row), self.detector, self.judge)
        share = self.reals.of_ceiling(float(Gallery(self.prompts, pictures, seen).cosines(self.reals.sealed).mean()))
        assert share is not None, "main looks for that first"
        return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=Path, help="else those of the subject")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("build/reseed"))
    args = parser.parse_args()
    run = args.run.resolve()
    card = json.loads((run / "3_evaluate/scorecard.json").read_text())
    recipe = Recipe.model_validate(json.loads((run / "lock.json").read_text())["recipe"])
    if card["identity"]["of_ceiling"] is None:
        raise SystemExit(f"{run}: its likeness is not measurable")
    scorer = scorer_of(run, recipe, args.photos, args.work)
    count = recipe.evaluate.seeds
    starts = [FIRST_SEED + index * count for index in range(args.times)]
    shares = [scorer.score(range(start, start + count)) for start in starts]
    print(words(card, shares))


def scorer_of(run: Path, recipe: Recipe, photos: Path | None, work: Path) -> Scorer:
    """The run's own models, photos and exported checkpoint."""
    said = json.loads((run / "3_evaluate/stage.json").read_text())["facts"]
    step, strength = said["chosen_step"], said["chosen_strength"]
    checkpoint = next(c for c in find_checkpoints(run / "2_fit") if c.step == step)
    if strength != 1.0:
        (checkpoint,) = weaker(checkpoint, [strength], work / "strengths")
    e, faces, weights = recipe.evaluate, recipe.faces, cache_folder()
    detector = get_detector(weights)
    judge = get_embedder(faces.judge, weights, faces.insightface_pack, faces.insightface_terms_accepted)
    strangers = calibrate.strangers(faces.judge)
    if strangers is None:
        raise SystemExit(f"no strangers are shipped for judge {faces.judge}")
    split = read_split(run / "1_prepare")
    paths = read_album(find_subject(run.parent.name, Path.cwd(), photos).photos, work / "unpacked").paths()
    names = split.select + split.report + split.fit
    files, framed = {name: paths[name] for name in names}, read_framed(run / "1_prepare")
    album = look_at_album(files, framed, recipe.prepare.max_pixels, detector, judge)
    precision = resolve_precision(e.precision)
    base = get_base(**recipe.base.model_dump(), precision=precision)
    base.use_adapter(checkpoint.adapter, folded=True)
    who = f"{recipe.prepare.trigger} {recipe.prepare.class_word}"
    prompts = [prompt for prompt in report_prompts(base.prompt_set, who) if prompt.group != "style"]
    sampling = Sampling(e.sampling_steps, e.guidance, e.batch_size, precision)
    made_by = fingerprint_of(run=str(run), step=step, strength=strength, base=base.sha256, recipe=recipe.sha256())[:16]
    reals = reals_of(split, split.report, album, strangers)
    return Scorer(base, detector, judge, reals, prompts, sampling, work / made_by)


def words(card: dict, shares: list[float]) -> str:
    """What the run states, and where the repeats came out."""
    low, high = card["identity"]["of_ceiling_ci95"]
    inside = sum(low <= share <= high for share in shares)
    moved = np.abs(np.array(shares) - card["identity"]["of_ceiling"])
    return "\n".join(
        [
            f"of_ceiling {card['identity']['of_ceiling']:.3f}, stated interval {low:.3f} to {high:.3f}",
            f"with other seeds {min(shares):.3f} to {max(shares):.3f}, mean {np.mean(shares):.3f}, "
            f"standard deviation {np.std(shares):.3f}",
            f"moved by {moved.mean():.3f} on average, {moved.max():.3f} at most; the interval is {high - low:.3f} wide",
            f"inside the interval: {inside} of {len(shares)}",
        ]
    )


if __name__ == "__main__":
    main()
