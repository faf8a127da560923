"""What a finished run says of itself: its lock, its recipe, and its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from trainer.errors import IntegrityError, UsageError
from trainer.jobs import EXPORT
from trainer.layouts.header import SUFFIX
from trainer.layouts.words import BESIDE
from trainer.recipe import Layered, Recipe, flat_values
from trainer.run import LOCK_FILE, read_object


class _Lock(BaseModel, strict=True):
    """What is read of a lock, whatever else it holds."""

    photos: list[str]
    versions: dict[str, str]
    base_sha256: str
    recipe: dict[str, Any]
    threads: int | None = None
    machine: str | None = None
    processes: int = 1
    split: dict[str, list[str]] | None = None
    weights: dict[str, str] | None = None


def read_lock(run: Path) -> dict[str, Any]:
    """lock.json of a run that was exported."""
    if not (run / EXPORT / "manifest.json").is_file():
        raise UsageError(f"{run} is no finished run", "give a folder such as runs/alice/latest")
    hint = "a run without its lock is lost"
    lock = read_object(run / LOCK_FILE, hint)
    try:
        _Lock.model_validate(lock)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise IntegrityError(f"{run / LOCK_FILE} is not readable: {said}", hint) from None
    return lock


def locked_recipe(run: Path, lock: dict[str, Any]) -> Layered:
    """The recipe of the lock. Raises IntegrityError where this version cannot run it."""
    try:
        recipe = Recipe.model_validate(lock["recipe"])
    except (ValidationError, KeyError) as error:
        hint = f"install likeness-trainer {lock['versions'].get('likeness-trainer', 'of that time')}"
        raise IntegrityError(f"{run / LOCK_FILE}: this version cannot run its recipe: {error}", hint) from None
    return Layered(recipe, dict.fromkeys(flat_values(recipe), "lock"), run / LOCK_FILE)


def read_manifest(run: Path) -> dict[str, Any]:
    """manifest.json of an exported run. Raises IntegrityError where it is not readable."""
    file, hint = run / EXPORT / "manifest.json", "run `trainer export` again"
    said = read_object(file, hint)
    told = isinstance(said.get("tensors_sha256"), str) and isinstance(said.get("of_ceiling", ""), float | None)
    rows = said.get("files") if isinstance(said.get("files"), list) else []
    listed = [str(row.get("file")) if isinstance(row, dict) else "" for row in rows or ()]
    if not told or not any(map(_is_plain, listed)):
        raise IntegrityError(f"{file} is not readable: it does not say what it should", hint)
    return said


def subject_of(manifest: dict[str, Any]) -> str:
    """The name that the adapter's file has, wherever the run lies now."""
    return next(str(row["file"]).removesuffix(SUFFIX) for row in manifest["files"] if _is_plain(row["file"]))


def _is_plain(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.endswith((f".kohya{SUFFIX}", BESIDE))
