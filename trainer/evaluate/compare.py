"""Two scored runs side by side: by how much one is more like its person, and whether that can be told at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from trainer.errors import IntegrityError, UsageError
from trainer.evaluate.calibrate import bootstrap_interval, bootstrap_means, interval95
from trainer.records import Floats
from trainer.run import read_object

ROUNDS = 2000
COSINES = "cosines.json"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a finished evaluation left.

    Attributes:
        card: its scorecard.json.
        likeness: (prompts, seeds, photos) cosines without style prompts, as shares of the way from floor to ceiling;
            None for an adapter that is not measurable.
        asked: what makes pictures comparable one by one: prompts, seeds, and hashes of the sealed photos.
    """

    name: str
    card: dict[str, Any]
    likeness: Floats | None
    asked: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """`of_ceiling` of a run minus that of the first one; `paired` where both met the same prompts, seeds and photos.

    Both are None where one of the two is not measurable.
    """

    run: str
    of_ceiling: float | None
    ci95: tuple[float, float] | None
    paired: bool

    @property
    def told_apart(self) -> bool:
        """Whether the 95% interval leaves zero out."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


def read_scored(run: Path) -> Scored:
    """The evaluation in a run folder. Raises UsageError where there is none."""
    folder = run / "3_evaluate"
    files = folder / "scorecard.json", folder / COSINES
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        hint = "run `trainer evaluate` for it, and give the folder that holds 3_evaluate"
        raise UsageError(f"{run} holds no finished evaluation: {missing} is missing", hint)
    card, said = _read(files[0], _Card), _read(files[1], _Cosines)
    identity = card["identity"]
    asked = (tuple(said["prompts"]), said["seeds"], tuple(said["photos"]))
    if identity["of_ceiling"] is None:
        return Scored(str(run), card, None, asked)
    floor, ceiling = identity["floor_strangers"], identity["ceiling"]
    try:
        likeness = (np.asarray(said["cosines"], np.float32) - floor) / (ceiling - floor)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise IntegrityError(f"{files[1]} is not readable: {error}", "run again with --fresh") from None
    return Scored(str(run), card, likeness.astype(np.float32), asked)


class _Named(BaseModel):
    name: str


class _Excess(BaseModel):
    excess: float | None


class _Adapter(BaseModel):
    adapter: float | None


class _Cost(BaseModel):
    fit_s: float | None


class _Identity(BaseModel):
    mean: float | None
    of_ceiling: float | None
    floor_strangers: float | None
    ceiling: float | None
    ci95: tuple[float | None, float | None]


class _Card(BaseModel):
    """What is read of a scorecard, whatever else it holds."""

    subject: str
    verdict: str
    recipe: _Named
    judge: _Named
    identity: _Identity
    copying: _Excess
    leak: _Excess
    prompt: _Adapter
    cost: _Cost


class _Cosines(BaseModel):
    """What is read of cosines.json."""

    prompts: list[str] | str
    seeds: Any
    photos: list[str] | str
    cosines: list[list[list[float]]]


def _read(file: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The file's object, which has what is asked of it."""
    hint = "run again with --fresh"
    said = read_object(file, hint)
    try:
        kind.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise IntegrityError(f"{file} is not readable: {where}: {first['msg']}", hint) from None
    return said


def difference(first: Scored, other: Scored) -> Difference:
    """How much more of its ceiling `other` reaches, with a 95% bootstrap interval.

    Where prompts, seeds and sealed photos are the same, the pictures are compared pair by pair, which leaves out what
    both share and makes the interval narrow; else each run is resampled by itself.

    Raises:
        UsageError: when two judges looked.
    """
    judges = [scored.card["judge"]["name"] for scored in (first, other)]
    if judges[0] != judges[1]:
        raise UsageError(
            f"{first.name} was judged by {judges[0]}, {other.name} by {judges[1]}: these are two measures",
            "score both with the same --set faces.judge",
        )
    paired, here, there = first.asked == other.asked, first.likeness, other.likeness
    if here is None or there is None:
        return Difference(other.name, None, None, paired)
    if paired:
        interval = bootstrap_interval(there - here, ROUNDS)
    else:
        means = [bootstrap_means(likeness, ROUNDS, seed) for seed, likeness in enumerate((here, there))]
        interval = interval95(means[1] - means[0])
    return Difference(other.name, float(there.mean() - here.mean()), interval, paired)


def compare(runs: list[Path]) -> dict[str, Any]:
    """Every run's numbers, and how each differs from the first. Raises UsageError for fewer than two."""
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more", "trainer compare RUN RUN")
    first, *others = [read_scored(run) for run in runs]
    found = [difference(first, other) for other in others]
    return {
        "runs": [_row(scored) for scored in (first, *others)],
        "differences": [asdict(one) | {"told_apart": one.told_apart} for one in found],
    }


def _row(scored: Scored) -> dict[str, Any]:
    card, identity = scored.card, scored.card["identity"]
    return {
        "run": scored.name,
        "subject": card["subject"],
        "recipe": card["recipe"]["name"],
        "of_ceiling": identity["of_ceiling"],
        "likeness": identity["mean"],
        "ci95": identity["ci95"],
        "copying": card["copying"]["excess"],
        "leak": card["leak"]["excess"],
        "prompt": card["prompt"]["adapter"],
        "fit_s": card["cost"]["fit_s"],
        "verdict": card["verdict"],
    }
