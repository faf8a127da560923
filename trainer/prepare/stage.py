"""prepare: check every photo once, seal, then frame and caption what is left to fit on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.album import Album
from trainer.console import Console
from trainer.pictures import UnusablePicture
from trainer.prepare.account import account_for, seal, total
from trainer.prepare.bursts import best_of_bursts, refused_as_lesser
from trainer.prepare.captions import Captioning, Captions, get_captioner
from trainer.prepare.coverage import coverage, lacks
from trainer.prepare.duplicates import Shot, near_duplicate_groups, same_shots
from trainer.prepare.group import Seen, find_person
from trainer.prepare.looks import Look, Looks, Sight
from trainer.prepare.reference import reference_vector
from trainer.prepare.samples import Samples
from trainer.prepare.settings import Eyes, Settings
from trainer.prepare.sheet import Refused, write_sheet
from trainer.records import Crop, Framed, Photo, PhotoFile, Rejection, Split

__all__ = ["VERSION", "Eyes", "Settings", "prepare", "read_framed", "read_split"]
VERSION = 7  # part of the fingerprint: raise it when the stage's output changes


def prepare(
    album: Album, settings: Settings, eyes: Eyes, folder: Path, cache: Path, console: Console
) -> dict[str, Any]:
    """Write the imagefolder, photos.jsonl, split.json, rejected.jsonl and sheet.png; returns the stage's facts.

    What each photo shows is remembered below `cache`: see `trainer.prepare.looks`.

    Raises PhotosError, with every reason, when fewer than `min_photos` are usable.
    """
    sight = Sight(eyes.detector, eyes.gate, settings.max_pixels)
    anchor = None if settings.reference is None else reference_vector(settings.reference, sight, settings.limits)
    seen, rejected = check_photos(album.photos, Looks(sight, cache), console)
    found = find_person(seen, settings.limits, settings.same_person, anchor, settings.framing())
    photos, groups, instead = found.photos, near_duplicate_groups(found.photos, settings.burst), dict[str, str]()
    if settings.keep_burst == "best":
        photos, instead = best_of_bursts(photos, groups, settings.size_px)
        groups = sorted((photo.name,) for photo in photos)
    unused = [*rejected, *found.rejected, *refused_as_lesser(instead)]
    lines = [_photo_line(photo) for photo in photos]
    rejected = account_for(album, unused, lines, settings.min_photos, "photos of the person alone", folder)
    split = seal(groups, {p.name: p.sha256 for p in photos}, settings, folder)
    shown: list[list[str]] = []
    captioned: dict[str, Any] = {}
    masked: dict[str, Any] = {}
    if not settings.seal_all:
        captions = captions_of(split.fit, album, settings.captioning())
        samples = Samples(settings, eyes, captions, folder)
        samples.write([p for p in photos if p.name in split.fit], console)
        shown, captioned, masked = samples.shown, captions.finish(console), samples.finish(console)
        sealed = {p.name for p in photos} - {*split.fit}
        secret = [p for p in found.photos if instead.get(p.name, p.name) in sealed]
        write_sheet(folder, refused_tiles(rejected, seen, secret), settings.max_pixels)
    told = {"doubts": found.doubts, "captions": captioned}
    return facts(total(album), photos, rejected, split, shown) | told | masked


def check_photos(
    files: Sequence[PhotoFile], looks: Looks, console: Console
) -> tuple[list[tuple[PhotoFile, Look]], list[Rejection]]:
    """What each photo shows, and why the others cannot be opened."""
    seen, rejected = [], []
    for file, found in console.track(looks.through(files), "checking photos", len(files)):
        if isinstance(found, UnusablePicture):
            rejected.append(Rejection(file.name, found.code, found.reason, found.hint))
        else:
            seen.append((file, found))
    return seen, rejected


def refused_tiles(rejected: Sequence[Rejection], seen: Seen, sealed: Sequence[Photo]) -> list[Refused]:
    """The rejected photos for the sheet. What is sealed, or one shot with it, is not shown, nor what cannot be opened.

    `sealed` holds the lesser photos of a sealed one's burst too.
    """
    sealed_shots = [Shot(photo.sha256, photo.phash, photo.second) for photo in sealed]
    shots = [Shot(file.sha256, look.phash, look.second) for file, look in seen]
    hidden = same_shots(shots, sealed_shots)
    shown = {file.name: file.path for (file, _), row in zip(seen, hidden, strict=True) if not row.any()}
    return [Refused(one.code, shown.get(one.file)) for one in rejected]


def captions_of(fitted: Sequence[str], album: Album, how: Captioning) -> Captions:
    """The captioner at work; of the .txt files it is given those of the photos to fit on alone."""
    texts = {name: album.captions[name].path for name in fitted if name in album.captions}
    return Captions(get_captioner(how, texts), how)


def facts(
    count: int,
    photos: Sequence[Photo],
    rejected: Sequence[Rejection],
    split: Split,
    shown: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """Counts for the log and the summary; no file names."""
    covered = coverage(shown)
    return {
        "photos": count,
        "rejected": dict(Counter(rejection.code for rejection in rejected)),
        "warned": dict(Counter(code for photo in photos for code in photo.warnings)),
        "fit": len(split.fit),
        "select": len(split.select),
        "report": len(split.report),
        "shots": len(split.groups),
        "shows": covered,
        "lacks": lacks(covered, [photo for photo in photos if photo.name in split.fit]) if shown else [],
    }


def read_split(folder: Path) -> Split:
    """The split that `prepare` wrote."""
    said = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    groups = tuple(tuple(group) for group in said["groups"])
    return Split(tuple(said["fit"]), tuple(said["select"]), tuple(said["report"]), groups)


def read_framed(folder: Path) -> dict[str, Framed]:
    """Where the subject is in each usable photo, by name, as `prepare` wrote it."""
    lines = (folder / "photos.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        said["file"]: Framed(tuple(said["face"]), tuple(said["frame"])) for said in (json.loads(line) for line in lines)
    }


def _photo_line(photo: Photo) -> dict[str, Any]:
    where: dict[str, Any] = {"face": [round(v, 1) for v in photo.face.box], "frame": [round(v, 3) for v in photo.frame]}
    if photo.framings:
        where["framings"] = {name: _numbers(part) for name, part in photo.framings.items()}
    return {"file": photo.name, **photo.measured, **where, "warnings": list(photo.warnings)}


def _numbers(part: Crop) -> list[float]:
    """Left, top and side; of what is no square left, top, width and height."""
    sides = (part.width,) if part.width == part.height else (part.width, part.height)
    return [round(v, 3) for v in (part.left, part.top, *sides)]
