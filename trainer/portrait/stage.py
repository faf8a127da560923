"""portrait: more pictures than asked for from the exported adapter; those most like the person are kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.bases.base import Base
from trainer.bases.sampling import Sampling, read_picture, sample_prompts, sampled_files, sampling_jobs
from trainer.console import Console
from trainer.portrait.provenance import write_generated
from trainer.portrait.rank import Ranker, best
from trainer.records import Prompt
from trainer.run import write_json

VERSION = 1
LIST = "portraits.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for.

    Attributes:
        texts: prompts, taken in turn.
        count: pictures to keep.
        tries: pictures to make for each one that is kept.
        seed: of the first; they are numbered on from it.
    """

    texts: Sequence[str]
    count: int
    tries: int
    seed: int
    sampling: Sampling

    @property
    def seeds(self) -> range:
        """Enough for `count` times `tries` pictures of all texts together."""
        return range(self.seed, self.seed + math.ceil(self.count * self.tries / len(self.texts)))


def portrait(
    base: Base, adapter: Path, settings: Settings, ranker: Ranker, folder: Path, console: Console
) -> dict[str, Any]:
    """Write NN.png, the best first, and portraits.json into `folder`; returns the stage's facts.

    An interrupted one goes on with the pictures that it left. Raises IntegrityError when the base does not take the
    adapter whole.
    """
    prompts = [Prompt(text, "portrait") for text in settings.texts]
    made = folder / "candidates"
    base.use_adapter(adapter, folded=True)
    sample_prompts(base, prompts, settings.seeds, settings.sampling, made, console, "making portraits")
    files = sampled_files(made, prompts, settings.seeds)
    jobs = [(settings.texts[row], seed) for row, seed in sampling_jobs(len(prompts), settings.seeds)]
    found = ranker(map(read_picture, files))
    kept = []
    for place, index in enumerate(best(found, [text for text, _ in jobs], settings.count), 1):
        text, seed = jobs[index]
        name = f"{place:02d}.png"
        write_generated(folder / name, read_picture(files[index]))
        kept.append({"file": name, "prompt": text, "seed": seed, **asdict(found[index])})
    write_json(folder / LIST, {"schema": 1, "candidates": len(files), "portraits": kept})
    shutil.rmtree(made)
    return {"candidates": len(files), "portraits": kept}
