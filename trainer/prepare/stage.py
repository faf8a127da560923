"""prepare: check every photo once, seal, then frame and caption what is left to fit on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.album import Album
from trainer.console import Console
from trainer.errors import PhotosError
from trainer.faces.align import crop_square
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import Detector, Embedder
from trainer.pictures import UnusablePicture, open_picture
from trainer.prepare.captions import Captioning, Captions, get_captioner
from trainer.prepare.coverage import coverage, lacks
from trainer.prepare.duplicates import Shot, near_duplicate_groups, same_shots
from trainer.prepare.group import Seen, find_person
from trainer.prepare.looks import Look, Looks, Sight
from trainer.prepare.quality import Limits
from trainer.prepare.reference import reference_vector
from trainer.prepare.seal import deal
from trainer.prepare.sheet import Refused, write_sheet
from trainer.records import Framed, Photo, PhotoFile, Rejection, Split
from trainer.run import write_json, write_text

VERSION = 5  # part of the fingerprint: raise it when the stage's output changes


@dataclass(frozen=True, slots=True)
class Settings:
    """What prepare needs of the recipe, flat; meanings and units as in `trainer.sections.PrepareSection`."""

    limits: Limits
    size_px: int
    trigger: str
    class_word: str
    same_person: float
    burst: float
    select_share: float
    report_share: float
    min_photos: int
    max_pixels: int
    captioner: str = "attributes"
    captioner_path: str | None = None
    captioner_revision: str | None = None
    identity_words: str = "refuse"
    subject: str = ""  # the name, which captions should not have
    people: bool = True  # the captions are of somebody
    seal_all: bool = False  # nothing will be fitted: every usable photo is for the score
    reference: Path | None = None  # a photo of the person, to tell whose album it is

    def captioning(self) -> Captioning:
        """What of this concerns the captions."""
        return Captioning(**{name: getattr(self, name) for name in Captioning.__slots__})


@dataclass(frozen=True, slots=True)
class Eyes:
    """The face models at work."""

    detector: Detector
    gate: Embedder
    attributes: AttributeReader


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
    found = find_person(seen, settings.limits, settings.same_person, anchor)
    photos = found.photos
    rejected = sorted([*album.refused, *rejected, *found.rejected], key=lambda rejection: rejection.file)
    total = len(album.photos) + len(album.refused)
    write_lines(folder / "rejected.jsonl", [asdict(rejection) for rejection in rejected])
    write_lines(folder / "photos.jsonl", [_photo_line(photo) for photo in photos])
    if len(photos) < settings.min_photos:
        raise PhotosError(
            f"{len(photos)} of {total} photos can be used, at least {settings.min_photos} are needed"
            + "".join(f"\n  {r.file}: {r.reason} ({r.code})" for r in rejected),
            "add more photos of the person alone, at least 12; " + (rejected[0].hint if rejected else ""),
        )
    groups = near_duplicate_groups(photos, settings.burst)
    shown: list[list[str]] = []
    captioned: dict[str, Any] = {}
    if settings.seal_all:
        split = Split((), (), tuple(sorted(photo.name for photo in photos)), tuple(sorted(groups)))
    else:
        split = deal(groups, {p.name: p.sha256 for p in photos}, settings.select_share, settings.report_share)
        captions = captions_of(split.fit, album, settings.captioning())
        shown = write_samples([p for p in photos if p.name in split.fit], settings, eyes, captions, folder, console)
        captioned = captions.finish(console)
        sealed = [p for p in photos if p.name not in split.fit]
        write_sheet(folder, refused_tiles(rejected, seen, sealed), settings.max_pixels)
    write_json(folder / "split.json", asdict(split))
    return facts(total, photos, rejected, split, shown) | {"doubts": found.doubts, "captions": captioned}


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
    """The rejected photos for the sheet. One shot with a sealed photo is not shown, nor what cannot be opened."""
    sealed_shots = [Shot(photo.sha256, photo.phash, photo.second) for photo in sealed]
    shots = [Shot(file.sha256, look.phash, look.second) for file, look in seen]
    hidden = same_shots(shots, sealed_shots)
    shown = {file.name: file.path for (file, _), row in zip(seen, hidden, strict=True) if not row.any()}
    return [Refused(one.code, shown.get(one.file)) for one in rejected]


def captions_of(fitted: Sequence[str], album: Album, how: Captioning) -> Captions:
    """The captioner at work; of the .txt files it is given those of the photos to fit on alone."""
    texts = {name: album.captions[name].path for name in fitted if name in album.captions}
    return Captions(get_captioner(how, texts), how)


def write_samples(
    photos: Sequence[Photo], settings: Settings, eyes: Eyes, captions: Captions, folder: Path, console: Console
) -> list[list[str]]:
    """images/NNNN.png with a .txt beside it, and metadata.jsonl in the Hugging Face imagefolder layout.

    Returns the attribute words of each photo.
    """
    (folder / "images").mkdir(exist_ok=True)
    lines, shown = [], []
    for index, photo in enumerate(console.track(photos, "framing and captioning", len(photos))):
        rgb_u8 = open_picture(photo.path, settings.max_pixels).rgb_u8
        crop = crop_square(rgb_u8, *photo.frame, settings.size_px)
        faces = eyes.detector.detect(crop)
        words = eyes.attributes.read(crop, faces[0]).words() if faces else []
        box = faces[0].box if faces else (0.2 * settings.size_px,) * 2 + (0.8 * settings.size_px,) * 2
        name = f"images/{index:04d}.png"
        Image.fromarray(crop).save(folder / name)
        text = captions.of(photo.name, crop, words)
        (folder / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        lines.append(
            {
                "file_name": name,
                "text": text,
                "face_box": [round(float(np.clip(v / settings.size_px, 0, 1)), 4) for v in box],
            }
        )
        shown.append(words)
    write_lines(folder / "metadata.jsonl", lines)
    return shown


def facts(
    total: int,
    photos: Sequence[Photo],
    rejected: Sequence[Rejection],
    split: Split,
    shown: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """Counts for the log and the summary; no file names."""
    covered = coverage(shown)
    return {
        "photos": total,
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


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line, the whole file or none."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _photo_line(photo: Photo) -> dict[str, Any]:
    where = {"face": [round(v, 1) for v in photo.face.box], "frame": [round(v, 3) for v in photo.frame]}
    return {"file": photo.name, **photo.measured, **where, "warnings": list(photo.warnings)}
