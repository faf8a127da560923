"""Pictures of a style or a brand to samples: checked, sealed and framed without a face to go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.album import Album
from trainer.console import Console
from trainer.faces.align import crop_square
from trainer.pictures import UnusablePicture, open_picture
from trainer.prepare.account import account_for, seal, total
from trainer.prepare.captions import Captions
from trainer.prepare.duplicates import Shot, groups_of, perceptual_hash, same_shots
from trainer.prepare.settings import Settings
from trainer.prepare.sheet import Refused, write_sheet
from trainer.prepare.stage import captions_of
from trainer.records import RGB, PhotoFile, Rejection
from trainer.run import write_lines

WHOLE = (0.0, 0.0, 1.0, 1.0)  # every place of a sample weighs the same in the loss


@dataclass(frozen=True, slots=True)
class Scene:
    """A usable picture; `size` is (width, height) in pixels, upright."""

    file: PhotoFile
    size: tuple[int, int]
    shot: Shot


def prepare_scenes(album: Album, settings: Settings, framing: str, folder: Path, console: Console) -> dict[str, Any]:
    """Write what `trainer.prepare.stage.prepare` writes, for pictures without a face; returns the stage's facts.

    Args:
        framing: `centre`, the largest square in the middle; `whole`, the whole picture on white.

    Raises PhotosError, with every reason, when fewer than `min_photos` are usable.
    """
    settings = replace(settings, people=False)
    scenes, rejected = check_scenes(album.photos, settings.max_pixels, console)
    rejected = account_for(
        album, rejected, [_line(scene, framing) for scene in scenes], settings.min_photos, "pictures", folder
    )
    shots = [scene.shot for scene in scenes]
    groups = groups_of([scene.file.name for scene in scenes], same_shots(shots, shots))
    split = seal(groups, {scene.file.name: scene.file.sha256 for scene in scenes}, settings, folder)
    captioned: dict[str, Any] = {}
    if not settings.seal_all:
        captions = captions_of(split.fit, album, settings.captioning())
        fitted = [scene for scene in scenes if scene.file.name in split.fit]
        write_scene_samples(fitted, settings, framing, captions, folder, console)
        captioned = captions.finish(console)
        write_sheet(folder, [Refused(one.code, None) for one in rejected], settings.max_pixels)
    return {
        "photos": total(album),
        "rejected": dict(Counter(rejection.code for rejection in rejected)),
        "warned": {},
        "fit": len(split.fit),
        "select": len(split.select),
        "report": len(split.report),
        "shots": len(split.groups),
        "shows": {},
        "lacks": [],
        "doubts": [],
        "captions": captioned,
    }


def check_scenes(files: Sequence[PhotoFile], max_pixels: int, console: Console) -> tuple[list[Scene], list[Rejection]]:
    """What can be opened, and why the others cannot."""
    scenes, rejected = [], []
    for file in console.track(files, "checking pictures", len(files)):
        try:
            picture = open_picture(file.path, max_pixels)
        except UnusablePicture as problem:
            rejected.append(Rejection(file.name, problem.code, str(problem), problem.hint))
            continue
        height, width = picture.rgb_u8.shape[:2]
        shot = Shot(file.sha256, perceptual_hash(picture.rgb_u8), picture.second)
        scenes.append(Scene(file, (width, height), shot))
    return scenes, rejected


def write_scene_samples(
    scenes: Sequence[Scene], settings: Settings, framing: str, captions: Captions, folder: Path, console: Console
) -> None:
    """images/NNNN.png with a .txt beside it, and metadata.jsonl; the class phrase where nobody has words."""
    (folder / "images").mkdir(exist_ok=True)
    lines = []
    for index, scene in enumerate(console.track(scenes, "framing and captioning", len(scenes))):
        crop = framed(open_picture(scene.file.path, settings.max_pixels).rgb_u8, framing, settings.size_px)
        name = f"images/{index:04d}.png"
        Image.fromarray(crop).save(folder / name)
        text = captions.of(scene.file.name, crop, [])
        (folder / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        lines.append({"file_name": name, "text": text, "face_box": list(WHOLE)})
    write_lines(folder / "metadata.jsonl", lines)


def framed(rgb_u8: RGB, framing: str, size_px: int) -> RGB:
    """The (size_px, size_px, 3) uint8 sample of a picture; see `prepare_scenes`."""
    height, width = rgb_u8.shape[:2]
    if framing == "whole" and height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.full((side, side, 3), 255, np.uint8)
        square[top : top + height, left : left + width] = rgb_u8
        rgb_u8 = square
    return crop_square(rgb_u8, *square_of(rgb_u8.shape[1], rgb_u8.shape[0], "centre"), size_px)


def square_of(width: int, height: int, framing: str) -> tuple[float, float, float]:
    """Left, top and side, in pixels, of the square that is learned from; beyond the picture for `whole`."""
    side = float(max(width, height) if framing == "whole" else min(width, height))
    return (width - side) / 2, (height - side) / 2, side


def _line(scene: Scene, framing: str) -> dict[str, Any]:
    width, height = scene.size
    return {
        "file": scene.file.name,
        "face": [0.0, 0.0, float(width), float(height)],
        "frame": list(square_of(width, height, framing)),
        "warnings": [],
    }
