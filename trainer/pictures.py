"""Open a user's picture safely: bounded before decoding, upright, in sRGB."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from trainer.records import RGB

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP")  # JPEG opens MPO too
MAX_BYTES = 256 * 2**20
MIN_SIDE_PX = 64
JPEG_TABLE_SUM = 3688  # of the luminance table that libjpeg uses at quality 50
WORKING_SIDE_PX = 2048  # longer sides are shrunk to this: a face fills far fewer pixels of any base
DRAFT_SIDE_PX = 1536  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its longest side keeps this
HUGE_PIXELS = 32_000_000  # pictures decoded at more than this are decoded one at a time, for the memory
_huge = threading.Lock()


class UnusablePicture(Exception):
    """Raise this for a file that cannot be used; it becomes one line of rejected.jsonl."""

    def __init__(self, code: str, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.code, self.reason, self.hint = code, reason, hint


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        rgb_u8: (height, width, 3) uint8, upright, sRGB, longest side at most 2048 px.
        second: capture time in whole seconds since the epoch, as the camera's clock had it; None where EXIF has none.
        jpeg_quality: 1 to 100 as libjpeg counts, from the quantization table; None for other formats.
    """

    rgb_u8: RGB
    second: int | None
    jpeg_quality: int | None = None


def open_picture(path: Path, max_pixels: int) -> Picture:
    """Decode one file; it is never written to.

    May be called in several threads. Raises UnusablePicture with code `unreadable`, `not-a-picture`, `truncated`,
    `too-large` or `too-small`.
    """
    _register_heif()
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnusablePicture("unreadable", f"cannot be read: {error.strerror}", "see its rights") from None
    with file, _quiet():
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise UnusablePicture("too-large", f"file of {size / 2**20:.0f} MiB", "export a smaller copy")
        try:
            with Image.open(file, formats=FORMATS) as image:
                return _decoded(image, max_pixels)
        except (UnusablePicture, MemoryError):
            raise
        except UnidentifiedImageError:
            raise UnusablePicture(
                "not-a-picture", "the content is no picture of a known format", "export it as JPEG or PNG"
            ) from None
        except Image.DecompressionBombError:
            raise UnusablePicture("too-large", f"more than {max_pixels} pixels", "export a smaller copy") from None
        except Exception as error:  # decoders raise anything on damaged files: AVIF RuntimeError, TIFF TypeError
            raise UnusablePicture("truncated", f"cannot be decoded: {error}", "copy it from the camera again") from None


def _decoded(image: Image.Image, max_pixels: int) -> Picture:
    width, height = image.size
    if width * height > max_pixels:
        raise UnusablePicture("too-large", f"{width} x {height} pixels, at most {max_pixels}", "export a smaller copy")
    if min(width, height) < MIN_SIDE_PX:
        raise UnusablePicture("too-small", f"{width} x {height} pixels", f"at least {MIN_SIDE_PX} px a side is needed")
    second, jpeg_quality = _capture_second(image), _jpeg_quality(image)
    keep = min(1.0, DRAFT_SIDE_PX / max(width, height))
    image.draft("RGB", (max(1, int(width * keep)), max(1, int(height * keep))))
    with _huge if image.width * image.height > HUGE_PIXELS else nullcontext():
        image.thumbnail((WORKING_SIDE_PX, WORKING_SIDE_PX), Image.Resampling.LANCZOS)
    ImageOps.exif_transpose(image, in_place=True)
    return Picture(np.asarray(_on_white(_to_srgb(image))), second, jpeg_quality)


_quiet_lock, _quiet_stack = threading.Lock(), ExitStack()
_quiet_depth = 0


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings while any thread decodes: `warnings.catch_warnings` alone would undo another thread's."""
    global _quiet_depth
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_stack.close()


def _to_srgb(image: Image.Image) -> Image.Image:
    """Through the embedded colour profile where there is a readable one."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return converted or image


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; transparent parts become white and 16-bit grays are scaled, not clipped."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, np.float64)
        return Image.fromarray((255 * levels / max(levels.max(), 1.0)).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _jpeg_quality(image: Image.Image) -> int | None:
    """libjpeg's scale of its own luminance table that comes closest: jpeg_quality_scaling in jcparam.c, inverted."""
    tables = getattr(image, "quantization", None)
    if not isinstance(tables, dict) or not tables.get(0):
        return None
    percent = 100 * sum(tables[0]) / JPEG_TABLE_SUM
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return int(min(100, max(1, round(quality))))


def _capture_second(image: Image.Image) -> int | None:
    tags = image.getexif()
    text = tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or tags.get(ExifTags.Base.DateTime)
    try:
        return int(datetime.strptime(str(text), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


@cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
