"""Where the time of an evaluation goes, part by part, on a finished run.

    python scripts/bench/evaluation_time.py runs/alice/latest [--photos FOLDER] [--work build/evaluation] [--base-kept]

The run is copied by hard links and evaluated anew in this process under cProfile; it stays as it is. Without
`--base-kept` what the base makes alone is made too, as in the first run on a machine. Seconds are of the processor, all
threads together, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import time
from pathlib import Path

from trainer.console import Console
from trainer.jobs import EVALUATE, FIT
from trainer.pipeline import Pipeline
from trainer.recipe import Layered, Recipe, flat_values
from trainer.subject import find_subject
from trainer.weights import cache_folder

# What is added up: words, the end of the file's name, functions. A row is inside the last one less far to the right.
PARTS = (
    ("evaluation", "trainer/jobs.py", ("work",)),
    ("  loading the base", "trainer/scoring.py", ("_base",)),
    ("  putting adapters on and taking them off", "trainer/bases/stock.py", ("use_adapter",)),
    ("  sampling", "trainer/bases/stock.py", ("sample",)),
    ("    texts", "pipeline_stable_diffusion.py", ("encode_prompt",)),
    ("    denoiser", "unet_2d_condition.py", ("forward",)),
    ("    decoding latents", "autoencoder_kl.py", ("decode",)),
    ("    writing PNG files", "trainer/bases/sampling.py", ("keep",)),
    ("  reading the photos, finding and embedding their faces", "trainer/evaluate/judge.py", ("look_at_albums",)),
    ("  finding and embedding faces in pictures", "trainer/evaluate/judge.py", ("look",)),
    ("  prompt score", "trainer/evaluate/probe.py", ("prompt_scores",)),
    ("  diversity", "trainer/evaluate/probe.py", ("diversity",)),
    ("  detail", "trainer/evaluate/detail.py", ("detail",)),
    ("  bootstrap", "trainer/evaluate/calibrate.py", ("bootstrap_means",)),
    ("  report", "trainer/evaluate/report.py", ("write_report",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=Path, help="else those of the subject")
    parser.add_argument("--work", type=Path, default=Path("build/evaluation"))
    parser.add_argument("--base-kept", action="store_true", help="take the base's pictures from the cache")
    args = parser.parse_args()
    run = args.run.resolve()
    if not args.base_kept:
        own = args.work.resolve() / "cache"
        shutil.rmtree(own / "base_pictures", ignore_errors=True)
        shutil.copytree(cache_folder(), own, ignore=shutil.ignore_patterns("base_pictures"), dirs_exist_ok=True)
        os.environ["LIKENESS_CACHE"] = str(own)
    print(table(*profiled(run, args.photos, args.work)))


def profiled(run: Path, photos: Path | None, work: Path) -> tuple[pstats.Stats, float]:
    """The profile of the evaluation made anew, and the seconds that the fit took."""
    recipe = Recipe.model_validate(json.loads((run / "lock.json").read_text())["recipe"])
    copy = work / run.parent.name / run.name
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(run, copy, copy_function=os.link, ignore=shutil.ignore_patterns(".*", "[34]_*", "events.jsonl"))
    layered = Layered(recipe, dict.fromkeys(flat_values(recipe), "lock"), work)
    pipeline = Pipeline(find_subject(run.parent.name, Path.cwd(), photos), layered, work, Console(quiet=True))
    done = pipeline.run(until=FIT)
    if FIT not in done["reused"]:
        raise SystemExit("its fit cannot be reused: another version made it, or its photos changed")
    profile = cProfile.Profile(time.process_time)
    profile.runcall(pipeline.run, until=EVALUATE)
    return pstats.Stats(profile), done["stages"][FIT]["fit_s"]


def table(stats: pstats.Stats, fit_s: float) -> str:
    """One line a part."""
    rows = [f"{'part':58} {'s':>7} {'calls':>6}"]
    for words, file, names in PARTS:
        found = [v for (path, _, name), v in stats.stats.items() if path.endswith(file) and name in names]
        seconds = sum(value[3] for value in found)
        rows.append(f"{words:58} {seconds:7.2f} {sum(value[1] for value in found):6}")
    rows.append(f"the fit took {fit_s:.2f} s of the clock")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
