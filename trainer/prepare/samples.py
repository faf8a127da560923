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
from trainer.faces.align import crop_square
from trainer.pictures import open_picture
from trainer.prepare.captions import Captions
from trainer.prepare.framing import FACE_FRAMING
from trainer.prepare.mask import BOX, mask_of
from trainer.prepare.settings import Eyes, Settings
from trainer.records import RGB, Box, Face, Photo, Square
from trainer.run import write_lines

BLIND = 0.2, 0.2, 0.8, 0.8  # where a sample's face is taken to be if none is found, as shares of the sample


@dataclass
class Samples:
    """What is written while the samples are made.

    Attributes:
        rows: of metadata.jsonl.
        shown: attribute words of each photo, in whichever framing they were measured.
        masked: samples by the kind of their mask.
    """

    settings: Settings
    eyes: Eyes
    captions: Captions
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    shown: list[list[str]] = field(default_factory=list)
    masked: Counter[str] = field(default_factory=Counter)

    def write(self, photos: Sequence[Photo], console: Console) -> None:
        """images/NNNN.png with a .txt beside it, masks/NNNN.png where asked for, and metadata.jsonl."""
        (self.folder / "images").mkdir(exist_ok=True)
        for photo in console.track(photos, "framing and captioning", len(photos)):
            rgb_u8 = open_picture(photo.path, self.settings.max_pixels).rgb_u8
            words: dict[str, None] = {}
            for framing, square in (photo.framings or {FACE_FRAMING: photo.frame}).items():
                words |= dict.fromkeys(self._sample(photo, framing, square, rgb_u8))
            self.shown.append(list(words))
        write_lines(self.folder / "metadata.jsonl", self.rows)

    def _sample(self, photo: Photo, framing: str, square: Square, rgb_u8: RGB) -> list[str]:
        """One sample and its row; returns the attribute words measured on it."""
        size = self.settings.size_px
        crop = crop_square(rgb_u8, *square, size)
        face = subject_of(self.eyes.detector.detect(crop), photo, square, size)
        words = self.eyes.attributes.read(crop, face).words() if face else []
        box: Box = face.box if face else (BLIND[0] * size, BLIND[1] * size, BLIND[2] * size, BLIND[3] * size)
        name = f"{len(self.rows):04d}.png"
        image = self.folder / "images" / name
        Image.fromarray(crop).save(image)
        text = self.captions.of(photo.name, crop, words)
        image.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
        row = {
            "file_name": f"images/{name}",
            "text": text,
            "face_box": [round(float(np.clip(v / size, 0, 1)), 4) for v in box],
        }
        if self.settings.framings != (FACE_FRAMING,):
            row["framing"] = framing
        if self.settings.landmarks:
            row["landmarks"] = landmarks_in(photo, square)
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
        if not self.masked:
            return {}
        if fallen := self.masked[BOX]:
            what = f"no {self.settings.mask} was made out in {fallen} of {len(self.rows)} samples"
            console.say(f"{what}: there the loss looks closer in the face's box")
        return {"masked": dict(self.masked)}


def landmarks_in(photo: Photo, square: Square) -> list[list[float]]:
    """The subject's five landmarks as fractions of this square of the photo."""
    left, top, side = square
    shares = (photo.face.landmarks - (left, top)) / side
    return [[round(float(x), 5), round(float(y), 5)] for x, y in shares]


def subject_of(faces: Sequence[Face], photo: Photo, square: Square, size_px: int) -> Face | None:
    """The face of a sample that lies where the photo's subject does; None where none was found."""
    left, top, side = square
    x, y = ((photo.face.landmarks.mean(0) - (left, top)) * (size_px / side)).tolist()
    return min(faces, key=lambda face: float(np.hypot(*(face.landmarks.mean(0) - (x, y)))), default=None)
