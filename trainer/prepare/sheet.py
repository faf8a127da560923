"""sheet.png: every sample that the training sees, then the rejected photos, small, with the reason on each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from trainer.pictures import UnusablePicture, open_picture

COLUMNS = 8
SMALL = 2  # rejected tiles in the width of a sample
MAX_REJECTED = 64
MIN_TILE_PX = 64
MAX_SHEET_PX = 2**25  # of the samples together: 100 MB in memory
GRAY, DARK, LIGHT = "#b0b0b0", "#202020", "#ffffff"


@dataclass(frozen=True, slots=True)
class Refused:
    """A rejected photo on the sheet: its code, and the file, or None for one that is not to be shown."""

    code: str
    path: Path | None


def write_sheet(folder: Path, refused: Sequence[Refused], max_pixels: int) -> None:
    """Write sheet.png from the samples in `folder/images` and the rejected photos; many large ones are shrunk."""
    samples = sorted((folder / "images").glob("*.png"))
    side = max(MIN_TILE_PX, min(*(_longest(file) for file in samples), math.isqrt(MAX_SHEET_PX // len(samples))))
    small = max(MIN_TILE_PX, side // SMALL)
    tiles = [_tile(one, small, max_pixels) for one in refused[:MAX_REJECTED]]
    if len(refused) > MAX_REJECTED:
        tiles.append(_labelled(Image.new("RGB", (small, small), GRAY), f"{len(refused) - MAX_REJECTED} more"))
    width = side * min(COLUMNS, len(samples))
    upper, lower = _height(len(samples), side, width), _height(len(tiles), small, width)
    sheet = Image.new("RGB", (width, upper + lower), "white")
    _paste(sheet, (_padded(_opened(file), side) for file in samples), side, 0)
    _paste(sheet, tiles, small, upper)
    sheet.save(folder / "sheet.png")


def _tile(one: Refused, side: int, max_pixels: int) -> Image.Image:
    """A square of the photo's middle, or gray, with the code on it."""
    picture = Image.new("RGB", (side, side), GRAY)
    if one.path is not None:
        with suppress(UnusablePicture, OSError):  # gone or changed since it was checked: its code is shown all the same
            picture = ImageOps.fit(Image.fromarray(open_picture(one.path, max_pixels).rgb_u8), (side, side))
    return _labelled(picture, one.code)


def _labelled(tile: Image.Image, words: str) -> Image.Image:
    """The tile with the words on a dark band at its foot, as large as fits."""
    draw = ImageDraw.Draw(tile)
    size = max(6.0, tile.width / 8)
    while size > 6 and draw.textlength(words, ImageFont.load_default(size)) > tile.width - 4:
        size -= 0.5
    font = ImageFont.load_default(size)
    band = round(size * 1.5)
    draw.rectangle((0, tile.height - band, tile.width, tile.height), fill=DARK)
    draw.text((tile.width / 2, tile.height - band / 2), words, fill=LIGHT, font=font, anchor="mm")
    return tile


def _height(count: int, side: int, width: int) -> int:
    return -(-count // max(1, width // side)) * side


def _paste(sheet: Image.Image, tiles: Iterable[Image.Image], side: int, top: int) -> None:
    columns = max(1, sheet.width // side)
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (side * (index % columns), top + side * (index // columns)))


def _longest(file: Path) -> int:
    """The longer side in pixels; nothing is decoded."""
    with Image.open(file) as image:
        return max(image.size)


def _padded(sample: Image.Image, side: int) -> Image.Image:
    """All of a sample in a square of this side, on white where it is no square."""
    return sample if sample.size == (side, side) else ImageOps.pad(sample, (side, side), color="white")


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")
