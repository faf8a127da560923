"""The subject folder: whose photos, with what consent, and how to forget a person."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import PhotosError, SubjectError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class Subject:
    """A person to learn: a plain identifier, and the folder or .zip that holds the photos."""

    name: str
    photos: Path

    def consent(self) -> dict[str, Any] | None:
        """What `consent.toml` beside the photos says, or None. Raises PhotosError where it cannot be read."""
        for path in (self.photos / "consent.toml", self.photos.parent / "consent.toml"):
            if path.is_file():
                try:
                    said = tomllib.loads(path.read_text(encoding="utf-8"))
                    return dict(json.loads(json.dumps(said, default=str)))  # dates become text
                except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                    raise PhotosError(f"{path}: not readable as TOML: {error}", "mend or remove it") from None
        return None


def find_subject(name: str, root: Path, photos: Path | None = None) -> Subject:
    """The subject called `name` below `root/subjects`, or with the photos given.

    Raises SubjectError for a name that is no plain identifier; no path is built from such a name.
    """
    check_name(name)
    return Subject(name, photos if photos is not None else root / "subjects" / name / "photos")


def check_name(name: str) -> None:
    """Raises SubjectError unless the name is lower-case letters, digits, - and _, at most 40 of them."""
    if not NAME.fullmatch(name):
        raise SubjectError(
            f"{name!r} cannot name a subject", "use 1 to 40 lower-case letters, digits, - or _, such as: alice"
        )


def forget(name: str, root: Path, runs: Path) -> list[Path]:
    """Delete the subject's photos below `root/subjects` and all runs; returns what was deleted."""
    check_name(name)
    doomed = [folder for folder in (root / "subjects" / name, runs / name) if folder.is_dir()]
    for folder in doomed:
        shutil.rmtree(folder)
    return doomed
