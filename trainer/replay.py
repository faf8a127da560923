"""Run a locked run again, from its photos on, and say what came out the same."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.album import CACHE, read_album
from trainer.closeness import TOLERANCE, distances, is_close
from trainer.console import Console
from trainer.errors import IntegrityError, PhotosError, UsageError
from trainer.finished import locked_recipe, read_lock, read_manifest, subject_of
from trainer.jobs import EVALUATE, FIT, PREPARE, take_part
from trainer.lock_words import lock_differences
from trainer.pipeline import Pipeline
from trainer.processes import count
from trainer.run import LOCK_FILE, read_object, sha256_of
from trainer.subject import Subject, find_subject

REPLAYS = "replay"
# What must come out equal, in the order in which a difference would spread: words, stage, files.
COMPARED = (
    ("which photos are sealed", PREPARE, ("split.json",)),
    ("the samples and their captions", PREPARE, ("metadata.jsonl", "images/*.png", "masks/*.png")),
    ("the losses", FIT, ("metrics.jsonl",)),
    ("the checkpoints", FIT, ("checkpoints/*/*.safetensors",)),
    ("the scored pictures", EVALUATE, ("samples/**/*.png",)),
    ("the cosines to the sealed photos", EVALUATE, ("cosines.json",)),
)


def replay(run: Path, photos: Path | None, console: Console, reference: Path | None = None) -> dict[str, Any]:
    """Make the run anew below its subject's folder, compare, and delete the copy; the run itself is only read.

    An interrupted replay resumes. Returns `same`, the adapter hashes and scores of both, what was compared, how this
    machine's versions and then the new lock differ from the locked ones, whether they alone do (`elsewhere`), and the
    `distance` of both with its `tolerance` (see `closeness`). The run may lie anywhere.

    Raises:
        UsageError: when `run` is no finished run, or was made with another `reference` photo, adapter to start from or
            number of processes.
        PhotosError: when the photos are no longer those of the lock.
        IntegrityError: when the lock cannot be read.
    """
    run = run.resolve()
    lock, then = read_lock(run), read_manifest(run)
    _same_processes(lock)
    subject = find_subject(subject_of(then), Path.cwd(), photos)
    _same_photos(subject, lock, run.parent / CACHE)
    _same_reference(reference, lock)
    _same_start(lock)
    changes = environment_changes(lock)
    for change in changes:
        console.say(f"not as in the lock: {change}")
    again = run.parent / REPLAYS
    with locked_threads(lock.get("threads"), console) as threads:
        summary = Pipeline(subject, locked_recipe(run, lock), again, console, reference=reference).run()
    made = Path(summary["run"])
    compared = {words: _equal(run / stage, made / stage, patterns) for words, stage, patterns in COMPARED}
    now = read_manifest(made)
    found = lock_differences(lock, read_object(made / LOCK_FILE, "run it again"))
    others = [line for line in found if not line.startswith("the version of ")]
    far = distances(run, made)
    shutil.rmtree(again)
    return {
        "run": str(run),
        "same": then["tensors_sha256"] == now["tensors_sha256"] and all(compared.values()),
        "adapter_sha256": {"then": then["tensors_sha256"], "now": now["tensors_sha256"]},
        "of_ceiling": {"then": then["of_ceiling"], "now": now["of_ceiling"]},
        "compared": compared,
        "environment": changes + others,
        "elsewhere": bool(found) and all(line.startswith(("the version of ", "the machine")) for line in found),
        "distance": far,
        "tolerance": TOLERANCE,
        "threads": threads,
    }


def follow(run: Path, console: Console) -> None:
    """What every process but the first does in a replay by several."""
    run = run.resolve()
    lock = read_lock(run)
    _same_processes(lock)
    with locked_threads(lock.get("threads"), console):
        take_part(locked_recipe(run, lock).recipe, console)


def check_same(said: dict[str, Any]) -> None:
    """Raises IntegrityError, naming the first difference, for a replay that came out otherwise.

    On another machine or with other versions, and with nothing else that differs, it may come out within `TOLERANCE`.
    """
    if said["same"] or (said["elsewhere"] and is_close(said["distance"])):
        return
    first = next((words for words, equal in said["compared"].items() if not equal), "the exported adapter")
    because = "; ".join(said["environment"]) or "versions and base are those of the lock: another processor, perhaps"
    raise IntegrityError(f"{said['run']} came out otherwise, from {first} on", because)


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


def _same_start(lock: dict[str, Any]) -> None:
    start = lock["recipe"].get("fit", {}).get("warm_start")
    if start is None:
        return
    if not Path(start).is_file():
        raise UsageError(f"{start}, which the run's fit started from, is not there", "put that adapter back")
    if sha256_of(Path(start)) != lock.get("warm_start_sha256"):
        raise UsageError(f"{start} is not the adapter that the run's fit started from", "put that adapter back")


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
