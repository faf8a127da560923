"""Portraits of a finished run: its own adapter, base and recipe; no photo but those it was fitted on is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.bases.sampling import read_picture
from trainer.console import Console
from trainer.errors import IntegrityError, UsageError
from trainer.evaluate.calibrate import strangers
from trainer.evaluate.judge import look
from trainer.faces.base import get_detector
from trainer.finished import locked_recipe, read_lock, read_manifest, subject_of
from trainer.jobs import EXPORT, PREPARE
from trainer.kinds import KINDS, Kind
from trainer.layouts.header import SUFFIX
from trainer.portrait.rank import Likeness, Ranker, likeness_of
from trainer.portrait.stage import VERSION, Settings, portrait
from trainer.portrait.styles import own_text, style_texts
from trainer.recipe import Recipe
from trainer.records import RGB
from trainer.run import Run, exclusive, fingerprint_of, read_stage, saying_disk_full
from trainer.scoring import embedder_of, load_base, sampling_of
from trainer.weights import cache_folder, fetch

PORTRAIT = "5_portrait"
MOST = 999  # pictures of one call


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asks for; meanings as in `trainer.portrait.stage.Settings`.

    Attributes:
        style: one of `trainer.portrait.styles.STYLES`; not looked at where there is a `prompt`.
        prompt: words of the user's own.
    """

    style: str
    prompt: str | None = None
    count: int = 8
    tries: int = 2
    seed: int = 0


def make_portraits(run: Path, asked: Asked, console: Console) -> dict[str, Any]:
    """Make them, or find those of the same wish; returns their folder and what `portraits.json` says of each.

    Raises:
        UsageError: for an unknown style, a count that makes no sense, or a run that is not finished or of no person.
        IntegrityError: where adapter or base are not those of the run.
    """
    _check_counts(asked)
    run = run.resolve()
    lock, manifest = read_lock(run), read_manifest(run)
    recipe = locked_recipe(run, lock).recipe
    _check_run(run, KINDS[recipe.prepare.subject_kind])
    base = load_base(recipe, recipe.evaluate.precision, console)
    if base.sha256 != lock["base_sha256"]:
        hint = "put back the base that the adapter was fitted on, or train again"
        raise IntegrityError(f"base {base.name} in {base.folder} is not the one of {run}", hint)
    settings = _settings(recipe, base.prompt_set, asked)
    inputs = {"adapter": manifest["tensors_sha256"], "base": base.sha256, "gate": recipe.faces.gate}
    fingerprint = fingerprint_of(version=VERSION, **inputs, settings=asdict(settings))
    name = f"{'prompt' if asked.prompt is not None else asked.style}-{fingerprint[:8]}"
    home = Run(run / PORTRAIT)
    with saying_disk_full(run), exclusive(home.folder):
        done = home.finished(name, fingerprint)
        if done is None:
            started, part = time.monotonic(), home.part(name, fingerprint)
            adapter = run / EXPORT / f"{subject_of(manifest)}{SUFFIX}"
            facts = portrait(base, adapter, settings, ranker_of(recipe, run / PREPARE), part, console)
            done = home.finish(name, fingerprint, time.monotonic() - started, facts)
    return {"run": str(run), "folder": str(done.folder), **done.facts}


def _check_counts(asked: Asked) -> None:
    if asked.count < 1 or asked.tries < 1 or asked.count * asked.tries > MOST:
        raise UsageError("--count and --tries must be at least 1", f"and no more than {MOST} pictures together")
    if asked.seed < 0:
        raise UsageError("--seed must be at least 0", "each picture's noise is drawn from it")


def _check_run(run: Path, kind: Kind) -> None:
    if not kind.has_face:
        raise UsageError(f"portraits are ranked by likeness, and {kind.faceless}", "use the adapter with diffusers")
    for name in (PREPARE, EXPORT):
        if read_stage(run / name) is None:
            raise IntegrityError(f"{run / name} is not whole", "run `trainer export` again")


def _settings(recipe: Recipe, prompt_set: str, asked: Asked) -> Settings:
    """What the stage is told: the texts, and pictures made as the evaluation made them."""
    trigger = recipe.prepare.trigger
    who = f"{trigger} {recipe.prepare.class_word}"
    if asked.prompt is None:
        texts = style_texts(asked.style, prompt_set, who)
    else:
        texts = [own_text(asked.prompt, trigger, who)]
    return Settings(texts, asked.count, asked.tries, asked.seed, sampling_of(recipe))


def ranker_of(recipe: Recipe, prepared: Path) -> Ranker:
    """Compares pictures with the samples that were fitted, in the gate's eyes: sealed photos stay closed."""

    def rank(pictures: Iterable[RGB]) -> list[Likeness]:
        fetch(cache_folder())
        detector, gate = get_detector(cache_folder()), embedder_of(recipe, recipe.faces.gate)
        known = look(map(read_picture, sorted((prepared / "images").glob("*.png"))), detector, gate)
        photos = known.vectors[known.detected > 0]
        if not len(photos):
            raise IntegrityError(f"no face is found in {prepared / 'images'}", "run `trainer prepare` again")
        seen = look(pictures, detector, gate)
        faces = [face is not None for face in seen.faces]
        return likeness_of(seen.vectors, faces, photos, strangers(recipe.faces.gate))

    return rank
