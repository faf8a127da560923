"""The samples: each photo to fit on in its framings, captioned, and masked where the recipe asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.console import Console
from trainer.faces.align import cropped
from trainer.pictures import open_picture
from trainer.prepare.buckets import square_crop
from trainer.prepare.captions import Captions
from trainer.prepare.framing import FACE_FRAMING
from trainer.prepare.mask import BOX, mask_of
from trainer.prepare.settings import Eyes, Settings
from trainer.records import RGB, Box, Crop, Face, Photo
from trainer.run import write_lines

BLIND = 0.2, 0.2, 0.8, 0.8  # where a square's face is taken to be if none is found, as shares of the square


@dataclass
class Samples:
    """What is written while the samples are made.

    Attributes:
        rows: of metadata.jsonl.
        shown: attribute words of each photo, in whichever framing they were measured.
        masked: samples by the kind of their mask.
        sizes: samples by their width and height, `96x160`.
    """

    settings: Settings
    eyes: Eyes
    captions: Captions
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    shown: list[list[str]] = field(default_factory=list)
    masked: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    def write(self, photos: Sequence[Photo], console: Console) -> None:
        """images/NNNN.png with a .txt beside it, masks/NNNN.png where asked for, and metadata.jsonl."""
        (self.folder / "images").mkdir(exist_ok=True)
        for photo in console.track(photos, "framing and captioning", len(photos)):
            rgb_u8 = open_picture(photo.path, self.settings.max_pixels).rgb_u8
            words: dict[str, None] = {}
            whole = {FACE_FRAMING: square_crop(photo.frame, self.settings.size_px)}
            for framing, part in (photo.framings or whole).items():
                words |= dict.fromkeys(self._sample(photo, framing, part, rgb_u8))
            self.shown.append(list(words))
        write_lines(self.folder / "metadata.jsonl", self.rows)

    def _sample(self, photo: Photo, framing: str, part: Crop, rgb_u8: RGB) -> list[str]:
        """One sample and its row; returns the attribute words measured on it."""
        width, height = part.size
        crop = cropped(rgb_u8, part)
        face = subject_of(self.eyes.detector.detect(crop), photo, part)
        words = self.eyes.attributes.read(crop, face).words() if face else []
        box = face.box if face else assumed_box(photo, part)
        name = f"{len(self.rows):04d}.png"
        image = self.folder / "images" / name
        Image.fromarray(crop).save(image)
        text = self.captions.of(photo.name, crop, words)
        image.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        row: dict[str, Any] = {
            "file_name": f"images/{name}",
            "text": text,
            "face_box": [
                round(float(np.clip(v / side, 0, 1)), 4) for v, side in zip(box, (*part.size, *part.size), strict=True)
            ],
        }
        if self.settings.shapes:
            row |= {"width": width, "height": height}
            self.sizes[f"{width}x{height}"] += 1
        if self.settings.framings != (FACE_FRAMING,):
            row["framing"] = framing
        if self.settings.landmarks:
            row["landmarks"] = landmarks_in(photo, part)
        if self.eyes.masker is not None:
            row |= self._mask(name, crop, face, box)
        self.rows.append(row)
        return words

    def _mask(self, name: str, crop: RGB, face: Face | None, box: Box) -> dict[str, str]:
        """Write the mask; its columns."""
        assert self.eyes.masker is not None
        (self.folder / "masks").mkdir(exist_ok=True)
        mask, kind = mask_of(self.settings.mask, self.eyes.masker, crop, face, box)
        Image.fromarray(mask).save(self.folder / "masks" / name)
        self.masked[kind] += 1
        return {"mask_file_name": f"masks/{name}", "masked": kind}

    def finish(self, console: Console) -> dict[str, Any]:
        """Say for how many samples the mask asked for was not found; returns the facts."""
        facts: dict[str, Any] = {"sizes": dict(self.sizes.most_common())} if self.sizes else {}
        if not self.masked:
            return facts
        if fallen := self.masked[BOX]:
            what = f"no {self.settings.mask} was made out in {fallen} of {len(self.rows)} samples"
            console.say(f"{what}: there the loss looks closer in the face's box")
        return facts | {"masked": dict(self.masked)}


def assumed_box(photo: Photo, part: Crop) -> Box:
    """Where, in pixels of a sample, the face is taken to be that was not found in it."""
    width, height = part.size
    if width == height:
        return BLIND[0] * width, BLIND[1] * height, BLIND[2] * width, BLIND[3] * height
    scale, (left, top, right, bottom) = width / part.width, photo.face.box
    return (
        (left - part.left) * scale,
        (top - part.top) * scale,
        (right - part.left) * scale,
        (bottom - part.top) * scale,
    )


def landmarks_in(photo: Photo, part: Crop) -> list[list[float]]:
    """The subject's five landmarks as fractions of this part of the photo."""
    shares = (photo.face.landmarks - (part.left, part.top)) / (part.width, part.height)
    return [[round(float(x), 5), round(float(y), 5)] for x, y in shares]


def subject_of(faces: Sequence[Face], photo: Photo, part: Crop) -> Face | None:
    """The face of a sample that lies where the photo's subject does; None where none was found."""
    x, y = ((photo.face.landmarks.mean(0) - (part.left, part.top)) * (part.size[0] / part.width)).tolist()
    return min(faces, key=lambda face: float(np.hypot(*(face.landmarks.mean(0) - (x, y)))), default=None)
