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
from trainer.faces.align import portrait_crop
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import Detector, Embedder
from trainer.pictures import UnusablePicture, open_picture
from trainer.prepare.coverage import coverage, lacks
from trainer.prepare.duplicates import near_duplicate_groups, perceptual_hash
from trainer.prepare.identity import likeness_and_threshold
from trainer.prepare.quality import Limits, check_quality, measure, single_face
from trainer.prepare.seal import deal
from trainer.records import RGB, Photo, PhotoFile, Rejection, Split
from trainer.run import write_json, write_text

VERSION = 3  # part of the fingerprint: raise it when the stage's output changes
SHEET_COLUMNS = 8


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
    seal_all: bool = False  # nothing will be fitted: every usable photo is for the score


@dataclass(frozen=True, slots=True)
class Eyes:
    """The face models at work."""

    detector: Detector
    gate: Embedder
    attributes: AttributeReader


def prepare(album: Album, settings: Settings, eyes: Eyes, folder: Path, console: Console) -> dict[str, Any]:
    """Write the imagefolder, photos.jsonl, split.json, rejected.jsonl and sheet.png; returns the stage's facts.

    Raises PhotosError, with every reason, when fewer than `min_photos` are usable.
    """
    photos, rejected = check_photos(album.photos, settings, eyes, console)
    photos, strangers = same_person_only(photos, settings.same_person)
    rejected = sorted([*album.refused, *rejected, *strangers], key=lambda rejection: rejection.file)
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
    if settings.seal_all:
        split = Split((), (), tuple(sorted(photo.name for photo in photos)), tuple(sorted(groups)))
    else:
        split = deal(groups, {p.name: p.sha256 for p in photos}, settings.select_share, settings.report_share)
        shown = write_samples([p for p in photos if p.name in split.fit], settings, eyes, folder, console)
    write_json(folder / "split.json", asdict(split))
    return facts(total, photos, rejected, split, shown)


def check_photos(
    files: Sequence[PhotoFile], settings: Settings, eyes: Eyes, console: Console
) -> tuple[list[Photo], list[Rejection]]:
    """The photos with one clear face, and the others with their reasons."""
    photos, rejected = [], []
    for file in console.track(files, "checking photos", len(files)):
        try:
            photos.append(_checked(file, settings, eyes))
        except UnusablePicture as problem:
            rejected.append(Rejection(file.name, problem.code, problem.reason, problem.hint))
    return photos, rejected


def same_person_only(photos: Sequence[Photo], same_person: float) -> tuple[list[Photo], list[Rejection]]:
    """The photos near the folder's consensus, and a rejection for each of the others."""
    if len(photos) < 3:
        return list(photos), []
    likeness, threshold = likeness_and_threshold([photo.embedding for photo in photos], same_person)
    kept = [photo for photo, value in zip(photos, likeness, strict=True) if value >= threshold]
    others = [
        Rejection(
            photo.name, "other-person", f"likeness {value:.2f} to the other photos, at least {threshold:.2f} is needed",
            "remove it, or lower prepare.same_person if it is the same person",
        )
        for photo, value in zip(photos, likeness, strict=True)
        if value < threshold
    ]  # fmt: skip
    return kept, others


def write_samples(
    photos: Sequence[Photo], settings: Settings, eyes: Eyes, folder: Path, console: Console
) -> list[list[str]]:
    """images/NNNN.png, metadata.jsonl in the Hugging Face imagefolder layout, and the contact sheet.

    Returns the attribute words of each photo.
    """
    (folder / "images").mkdir(exist_ok=True)
    lines, tiles, shown = [], [], []
    for index, photo in enumerate(console.track(photos, "framing and captioning", len(photos))):
        rgb_u8 = open_picture(photo.path, settings.max_pixels).rgb_u8
        crop = portrait_crop(rgb_u8, photo.face.landmarks, settings.size_px)
        faces = eyes.detector.detect(crop)
        words = eyes.attributes.read(crop, faces[0]).words() if faces else []
        box = faces[0].box if faces else (0.2 * settings.size_px,) * 2 + (0.8 * settings.size_px,) * 2
        name = f"images/{index:04d}.png"
        Image.fromarray(crop).save(folder / name)
        lines.append(
            {
                "file_name": name,
                "text": ", ".join([f"photo of {settings.trigger} {settings.class_word}", *words]),
                "face_box": [round(float(np.clip(v / settings.size_px, 0, 1)), 4) for v in box],
            }
        )
        tiles.append(crop)
        shown.append(words)
    write_lines(folder / "metadata.jsonl", lines)
    contact_sheet(tiles).save(folder / "sheet.png")
    return shown


def contact_sheet(tiles: Sequence[RGB]) -> Image.Image:
    """All samples in rows of eight."""
    side = tiles[0].shape[0]
    rows = -(-len(tiles) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (side * min(SHEET_COLUMNS, len(tiles)), side * rows), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (side * (index % SHEET_COLUMNS), side * (index // SHEET_COLUMNS)))
    return sheet


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
        "lacks": lacks(covered) if shown else [],
    }


def read_split(folder: Path) -> Split:
    """The split that `prepare` wrote."""
    said = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    groups = tuple(tuple(group) for group in said["groups"])
    return Split(tuple(said["fit"]), tuple(said["select"]), tuple(said["report"]), groups)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line, the whole file or none."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _photo_line(photo: Photo) -> dict[str, Any]:
    return {"file": photo.name, **photo.measured, "warnings": list(photo.warnings)}


def _checked(file: PhotoFile, settings: Settings, eyes: Eyes) -> Photo:
    picture = open_picture(file.path, settings.max_pixels)
    face = single_face(eyes.detector.detect(picture.rgb_u8), settings.limits)
    quality = measure(picture.rgb_u8, face, picture.jpeg_quality)
    warnings = check_quality(quality, settings.limits)
    return Photo(
        name=file.name,
        path=file.path,
        sha256=file.sha256,
        phash=perceptual_hash(picture.rgb_u8),
        second=picture.second,
        face=face,
        embedding=eyes.gate.embed(picture.rgb_u8, face),
        measured=asdict(quality),
        warnings=warnings,
    )
