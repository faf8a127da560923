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
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp"})
MAX_PHOTOS = 2000


@dataclass(frozen=True, slots=True)
class Subject:
    """A person to learn: a plain identifier and the folder that holds the photos."""

    name: str
    photos: Path

    def files(self) -> list[Path]:
        """Every picture file, by name. Raises PhotosError for a folder that is missing, empty or absurdly large."""
        if not self.photos.is_dir():
            raise PhotosError(
                f"{self.photos}: no such folder", "put at least 12 photos of the person there, or pass --photos FOLDER"
            )
        found = sorted(
            path
            for path in self.photos.iterdir()
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        if not found:
            raise PhotosError(
                f"{self.photos}: no pictures in it",
                f"put at least 12 photos there ({', '.join(sorted(s[1:] for s in PICTURE_SUFFIXES))})",
            )
        if len(found) > MAX_PHOTOS:
            raise PhotosError(f"{self.photos}: {len(found)} pictures, at most {MAX_PHOTOS}", "keep the best ones")
        return found

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
