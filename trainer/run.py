"""The run folder: one lock, one event log, and stages that are whole or not there.

A stage is written into `.<stage>.part` and renamed in place, so a killed process leaves either the finished stage or
a part that the next try resumes or discards. `stage.json` holds the fingerprint of the stage's inputs and the hash of
every file it wrote.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.errors import IntegrityError, MissingPartError, UsageError

STAGE_FILE = "stage.json"
LOCK_FILE = "lock.json"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint_of(**inputs: Any) -> str:
    """SHA-256, hex, of everything that a stage's result depends on."""
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256, hex, of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line, the whole file or none."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none: beside its place first, flushed to disk, then renamed."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, whole or not at all. Raises ValueError for NaN: a number is finite or null."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True, slots=True)
class Stage:
    """A finished stage: its folder and what `stage.json` says of it."""

    folder: Path
    fingerprint: str
    seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """`runs/<subject>/<recipe>-<lock8>`."""

    folder: Path

    def event(self, what: str, **facts: Any) -> None:
        """Append one line to events.jsonl: what happened and when (UTC); never pixels or names."""
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": what, **facts}
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def add_to_lock(self, **facts: Any) -> None:
        """Put what the run decided beside what it was given."""
        lock = read_object(self.folder / LOCK_FILE, f"delete {self.folder} and run the command again")
        write_json(self.folder / LOCK_FILE, lock | facts)

    def finished(self, name: str, fingerprint: str) -> Stage | None:
        """The stage called `name` where it is whole and was made from the same inputs, here or in a sibling run."""
        siblings = sorted(
            folder for folder in self.folder.parent.iterdir() if folder.is_dir() and not folder.is_symlink()
        )
        for run in [self.folder, *(folder for folder in siblings if folder != self.folder)]:
            try:
                stage = read_stage(run / name)
            except IntegrityError:
                if run == self.folder:
                    raise
                continue  # an older run's damage is no concern of this one
            if stage and stage.fingerprint == fingerprint:
                if run != self.folder:
                    self._adopt(run / name)
                    stage = read_stage(self.folder / name)
                return stage
        return None

    def part(self, name: str, fingerprint: str) -> Path:
        """The folder to write the stage into; it keeps what an interrupted try with the same inputs left there."""
        part = self.folder / f".{name}.part"
        mark = part / ".fingerprint"
        if part.exists() and (not mark.is_file() or mark.read_text() != fingerprint):
            shutil.rmtree(part)
        part.mkdir(exist_ok=True)
        write_text(mark, fingerprint)
        return part

    def finish(self, name: str, fingerprint: str, seconds: float, facts: dict[str, Any]) -> Stage:
        """Write stage.json into the part and put it in place of any earlier stage of that name."""
        part, target = self.folder / f".{name}.part", self.folder / name
        (part / ".fingerprint").unlink()
        files = {str(path.relative_to(part)): sha256_of(path) for path in sorted(part.rglob("*")) if path.is_file()}
        stage = {
            "stage": name,
            "fingerprint": fingerprint,
            "seconds": round(seconds, 3),
            "facts": facts,
            "files": files,
        }
        write_json(part / STAGE_FILE, stage)
        old = self.folder / f".{name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        part.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        return Stage(target, fingerprint, seconds, facts)

    def _adopt(self, source: Path) -> None:
        """Share a sibling run's finished stage by hard links, or by copies where the disk has none."""
        part, target = self.folder / f".{source.name}.part", self.folder / source.name
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, copy_function=_link_or_copy)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)


def open_run(subject_folder: Path, recipe_name: str, lock: dict[str, Any]) -> Run:
    """The run folder of this lock, made where it is new; `latest` then points to it."""
    folder = subject_folder / f"{recipe_name}-{fingerprint_of(lock=lock)[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / LOCK_FILE).exists():
        write_json(folder / LOCK_FILE, lock)
    link, fresh = subject_folder / "latest", subject_folder / ".latest.part"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    fresh.replace(link)
    return Run(folder)


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file of a run. Raises IntegrityError, with the hint, for anything else."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is not readable: {error}", hint) from None
    if not isinstance(said, dict):
        raise IntegrityError(f"{path} is not readable: it holds no JSON object", hint)
    return said


def read_stage(folder: Path) -> Stage | None:
    """The finished stage in `folder`, or None. Raises IntegrityError when one of its files was changed or lost."""
    mark = folder / STAGE_FILE
    if not mark.is_file():
        return None
    hint = f"delete {folder} and run the command again"
    said = read_object(mark, hint)
    files = said.get("files")
    kinds = {"fingerprint": str, "seconds": int | float, "facts": dict, "files": dict}
    if not isinstance(files, dict) or not all(isinstance(said.get(key), kind) for key, kind in kinds.items()):
        raise IntegrityError(f"{mark} is not readable: it does not say what it should", hint)
    stage = Stage(folder, said["fingerprint"], said["seconds"], said["facts"])
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != expected:
            raise IntegrityError(
                f"{path} was changed or lost after its stage finished", f"delete {folder} and run the command again"
            )
    return stage


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raises UsageError where another process holds it or no folder can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", "choose another folder with --out") from None
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another run is working in {folder}", "wait for it to end, or stop it") from None
        yield


@contextmanager
def saying_disk_full(folder: Path) -> Iterator[None]:
    """Turn a full disk into a MissingPartError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = next(place for place in (folder, *folder.parents) if place.is_dir())
        free = shutil.disk_usage(there).free / 2**20
        raise MissingPartError(
            f"no space left on the disk of {folder} ({free:.0f} MiB free)",
            "free some space and run the same command again: it resumes",
        ) from error


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
