"""Run a locked run again, from its photos on, and say what came out the same."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from trainer.album import CACHE, read_album
from trainer.console import Console
from trainer.errors import IntegrityError, PhotosError, UsageError
from trainer.jobs import EVALUATE, EXPORT, FIT, PREPARE, take_part
from trainer.pipeline import Pipeline
from trainer.processes import count
from trainer.recipe import Layered, Recipe, flat_values, leaves
from trainer.run import LOCK_FILE, read_object, sha256_of
from trainer.subject import Subject, find_subject

REPLAYS = "replay"
# What must come out equal, in the order in which a difference would spread: words, stage, files.
COMPARED = (
    ("which photos are sealed", PREPARE, ("split.json",)),
    ("the samples and their captions", PREPARE, ("metadata.jsonl", "images/*.png")),
    ("the losses", FIT, ("metrics.jsonl",)),
    ("the checkpoints", FIT, ("checkpoints/*/*.safetensors",)),
    ("the scored pictures", EVALUATE, ("samples/**/*.png",)),
    ("the cosines to the sealed photos", EVALUATE, ("cosines.json",)),
)


class _Lock(BaseModel, strict=True):
    """What is read of a lock, whatever else it holds."""

    photos: list[str]
    versions: dict[str, str]
    base_sha256: str
    recipe: dict[str, Any]
    threads: int | None = None
    processes: int = 1
    split: dict[str, list[str]] | None = None
    weights: dict[str, str] | None = None


def replay(run: Path, photos: Path | None, console: Console, reference: Path | None = None) -> dict[str, Any]:
    """Make the run anew below its subject's folder, compare, and delete the copy; the run itself is only read.

    An interrupted replay resumes. Returns `same`, the adapter hashes and scores of both, what was compared, and how
    this machine's versions differ from the locked ones.

    Raises:
        UsageError: when `run` is no finished run, or was made with another `reference` photo or number of processes.
        PhotosError: when the photos are no longer those of the lock.
        IntegrityError: when the lock cannot be read.
    """
    run = run.resolve()
    lock, then = read_lock(run), _manifest(run)
    _same_processes(lock)
    subject = find_subject(run.parent.name, Path.cwd(), photos)
    _same_photos(subject, lock, run.parent / CACHE)
    _same_reference(reference, lock)
    changes = environment_changes(lock)
    for change in changes:
        console.say(f"not as in the lock: {change}")
    again = run.parent / REPLAYS
    with locked_threads(lock.get("threads"), console) as threads:
        summary = Pipeline(subject, _locked_recipe(run, lock), again, console, reference=reference).run()
    made = Path(summary["run"])
    compared = {words: _equal(run / stage, made / stage, patterns) for words, stage, patterns in COMPARED}
    now = _manifest(made)
    shutil.rmtree(again)
    return {
        "run": str(run),
        "same": then["tensors_sha256"] == now["tensors_sha256"] and all(compared.values()),
        "adapter_sha256": {"then": then["tensors_sha256"], "now": now["tensors_sha256"]},
        "of_ceiling": {"then": then["of_ceiling"], "now": now["of_ceiling"]},
        "compared": compared,
        "environment": changes,
        "threads": threads,
    }


def follow(run: Path, console: Console) -> None:
    """What every process but the first does in a replay by several."""
    run = run.resolve()
    lock = read_lock(run)
    _same_processes(lock)
    with locked_threads(lock.get("threads"), console):
        take_part(_locked_recipe(run, lock).recipe, console)


def check_same(said: dict[str, Any]) -> None:
    """Raises IntegrityError, naming the first difference, for a replay that came out otherwise."""
    if said["same"]:
        return
    first = next((words for words, equal in said["compared"].items() if not equal), "the exported adapter")
    because = "; ".join(said["environment"]) or "versions and base are those of the lock: another processor, perhaps"
    raise IntegrityError(f"{said['run']} came out otherwise, from {first} on", because)


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


@contextmanager
def locked_threads(then: int | None, console: Console) -> Iterator[dict[str, int | None]]:
    """Compute with as many threads as the locked run did, whatever this machine would choose; yields both numbers.

    `then` is None for a lock of before they were written down: nothing is changed then.
    """
    import torch

    now = torch.get_num_threads()
    if then and then != now:
        console.say(f"the run was fitted with {then} threads, not {now} as here: it is replayed with {then}")
        torch.set_num_threads(then)
    elif not then:
        console.say(f"the lock does not say how many threads the run was fitted with; this machine takes {now}")
    try:
        yield {"then": then, "now": then or now, "of_machine": now}
    finally:
        torch.set_num_threads(now)


def environment_changes(lock: dict[str, Any]) -> list[str]:
    """How the installed packages differ from those of the lock, in words."""
    changes = []
    for name, then in lock["versions"].items():
        try:
            now = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            now = "not installed"
        if now != then:
            changes.append(f"{name} {then} then, {now} now")
    return changes


def lock_differences(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Why two runs may differ, in words: one line for each value of their locks that does."""
    said = []
    flat = [dict(leaves(lock)) for lock in (first, other)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        then, now = (values.get(key) for values in flat)
        if then == now:
            continue
        if isinstance(then or now, list):
            gone, new = len(set(then or []) - set(now or [])), len(set(now or []) - set(then or []))
            said.append(f"{key}: {gone} only in the first, {new} only in the other")
        elif key.endswith("sha256"):
            said.append(f"{key}: {str(then)[:12]} and {str(now)[:12]}")
        else:
            said.append(f"{key}: {then} and {now}")
    return said


def _locked_recipe(run: Path, lock: dict[str, Any]) -> Layered:
    try:
        recipe = Recipe.model_validate(lock["recipe"])
    except (ValidationError, KeyError) as error:
        hint = f"install likeness-trainer {lock['versions'].get('likeness-trainer', 'of that time')}"
        raise IntegrityError(f"{run / LOCK_FILE}: this version cannot run its recipe: {error}", hint) from None
    return Layered(recipe, dict.fromkeys(flat_values(recipe), "lock"), run / LOCK_FILE)


def _same_photos(subject: Subject, lock: dict[str, Any], cache: Path) -> None:
    album = read_album(subject.photos, cache, captions="captions" in lock)
    now = sorted(photo.sha256 for photo in album.photos)
    if now != lock["photos"]:
        gone, new = len(set(lock["photos"]) - set(now)), len(set(now) - set(lock["photos"]))
        raise PhotosError(
            f"{subject.photos}: not the photos of the lock: {gone} are missing or changed, {new} are new",
            "put the photos back as they were, or pass --photos FOLDER",
        )
    if sorted(text.sha256 for text in album.captions.values()) != lock.get("captions", []):
        raise PhotosError(f"{subject.photos}: the .txt files are not those of the lock", "put them back as they were")


def _same_reference(reference: Path | None, lock: dict[str, Any]) -> None:
    then = lock.get("reference_sha256")
    if reference is not None and not reference.is_file():
        raise UsageError(f"{reference}: no such file", "pass the reference photo of the run as --reference")
    if then != (None if reference is None else sha256_of(reference)):
        hint = "pass that photo as --reference" if then else "leave --reference out"
        raise UsageError(f"the run was made with {'another' if then else 'no'} reference photo", hint)


def _same_processes(lock: dict[str, Any]) -> None:
    then = lock.get("processes", 1)
    if then != count():
        started = (
            f"accelerate launch --multi_gpu --num_processes {then} -m trainer replay" if then > 1 else "trainer replay"
        )
        raise UsageError(f"the run was fitted by {then} processes, not {count()}", f"start it as: {started}")


def _equal(then: Path, now: Path, patterns: tuple[str, ...]) -> bool:
    """Whether both folders hold the same files of these patterns, byte for byte, and hold any."""
    found = [
        {str(path.relative_to(folder)): sha256_of(path) for pattern in patterns for path in folder.glob(pattern)}
        for folder in (then, now)
    ]
    return found[0] == found[1] and bool(found[0])


def _manifest(run: Path) -> dict[str, Any]:
    file, hint = run / EXPORT / "manifest.json", "run `trainer export` again"
    said = read_object(file, hint)
    if not isinstance(said.get("tensors_sha256"), str) or not isinstance(said.get("of_ceiling", ""), float | None):
        raise IntegrityError(f"{file} is not readable: it does not say what it should", hint)
    return said
