"""Pictures of a style or a brand to samples: checked, sealed and framed without a face to go by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.album import Album
from trainer.console import Console
from trainer.faces.align import cropped
from trainer.pictures import UnusablePicture, open_picture
from trainer.prepare.account import account_for, seal, total
from trainer.prepare.buckets import nearest
from trainer.prepare.captions import Captions
from trainer.prepare.duplicates import Shot, groups_of, perceptual_hash, same_shots
from trainer.prepare.settings import Settings
from trainer.prepare.sheet import Refused, write_sheet
from trainer.prepare.stage import captions_of
from trainer.records import RGB, Crop, PhotoFile, Rejection, Shape
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
        framing: `centre`, the largest square in the middle; `whole`, the whole picture on white. With buckets it is the
            one nearest to the picture's shape instead of the square.

    Raises PhotosError, with every reason, when fewer than `min_photos` are usable.
    """
    settings = replace(settings, people=False)
    scenes, rejected = check_scenes(album.photos, settings.max_pixels, console)
    scenes, enlarged = not_enlarged(scenes, settings, framing)
    rejected = account_for(
        album,
        [*rejected, *enlarged],
        [_line(scene, framing) for scene in scenes],
        settings.min_photos,
        "pictures",
        folder,
    )
    shots = [scene.shot for scene in scenes]
    groups = groups_of([scene.file.name for scene in scenes], same_shots(shots, shots))
    split = seal(groups, {scene.file.name: scene.file.sha256 for scene in scenes}, settings, folder)
    captioned: dict[str, Any] = {}
    sized: dict[str, Any] = {}
    if not settings.seal_all:
        captions = captions_of(split.fit, album, settings.captioning())
        fitted = [scene for scene in scenes if scene.file.name in split.fit]
        sized = write_scene_samples(fitted, settings, framing, captions, folder, console)
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
        **sized,
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
) -> dict[str, Any]:
    """images/NNNN.png with a .txt beside it, and metadata.jsonl; the class phrase where nobody has words.

    Returns the facts.
    """
    (folder / "images").mkdir(exist_ok=True)
    lines: list[dict[str, Any]] = []
    for index, scene in enumerate(console.track(scenes, "framing and captioning", len(scenes))):
        size = shape_of(scene, settings)
        crop = framed(open_picture(scene.file.path, settings.max_pixels).rgb_u8, framing, size)
        name = f"images/{index:04d}.png"
        Image.fromarray(crop).save(folder / name)
        text = captions.of(scene.file.name, crop, [])
        (folder / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        lines.append({"file_name": name, "text": text, "face_box": list(WHOLE)})
        if settings.shapes:
            lines[-1] |= {"width": size[0], "height": size[1]}
    write_lines(folder / "metadata.jsonl", lines)
    sizes = Counter(f"{line['width']}x{line['height']}" for line in lines) if settings.shapes else Counter[str]()
    return {"sizes": dict(sizes.most_common())} if sizes else {}


def not_enlarged(scenes: Sequence[Scene], settings: Settings, framing: str) -> tuple[list[Scene], list[Rejection]]:
    """The pictures that `max_upscale` lets through, and the others as `no-framing`."""
    kept, rejected = [], []
    for scene in scenes:
        size = shape_of(scene, settings)
        times = size[0] / part_of(*scene.size, framing, size).width
        if settings.max_upscale is None or times <= settings.max_upscale:
            kept.append(scene)
            continue
        reason = f"would be enlarged {times:.1f} times, at most {settings.max_upscale:g}"
        hint = "use a larger picture, or change prepare.max_upscale"
        rejected.append(Rejection(scene.file.name, "no-framing", reason, hint))
    return kept, rejected


def shape_of(scene: Scene, settings: Settings) -> Shape:
    """Width and height of the picture's sample: the bucket nearest to its own shape, or the square."""
    return nearest(settings.shapes or ((settings.size_px, settings.size_px),), *scene.size)


def framed(rgb_u8: RGB, framing: str, size: Shape) -> RGB:
    """The (height, width, 3) uint8 sample of a picture, `size` being its width and height; see `prepare_scenes`."""
    height, width = rgb_u8.shape[:2]
    if framing == "whole":
        part = part_of(width, height, framing, size)
        wide, high = math.ceil(part.width), math.ceil(part.height)
        top, left = (high - height) // 2, (wide - width) // 2
        canvas = np.full((high, wide, 3), 255, np.uint8)
        canvas[top : top + height, left : left + width] = rgb_u8
        rgb_u8 = canvas
    return cropped(rgb_u8, part_of(rgb_u8.shape[1], rgb_u8.shape[0], "centre", size))


def part_of(width: int, height: int, framing: str, size: Shape) -> Crop:
    """What becomes the sample of this (width, height): the largest such part, in the middle; for `whole` the smallest
    around the picture."""
    of = max if framing == "whole" else min
    across, down = of(width, height * size[0] / size[1]), of(height, width * size[1] / size[0])
    return Crop((width - across) / 2, (height - down) / 2, across, down, size)


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
