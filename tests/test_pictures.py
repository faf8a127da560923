"""Whatever a camera or a phone writes comes out upright, in sRGB, on white; anything else is an UnusablePicture."""

import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from trainer.pictures import WORKING_SIDE_PX, Picture, UnusablePicture, open_picture

MAX_PIXELS = 120_000_000
LOSSY = {"JPEG", "WEBP", "HEIF", "AVIF"}


def scene(width: int = 96, height: int = 80) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth, and different in every corner, so that no turn of it looks like another."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], 2).astype(np.uint8)


def opened(path: Path) -> Picture:
    return open_picture(path, MAX_PIXELS)


def code_of(path: Path, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(UnusablePicture) as caught:
        open_picture(path, max_pixels)
    assert caught.value.reason
    assert caught.value.hint
    return caught.value.code


def assert_close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], levels: float) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(float) - wanted).mean() <= levels


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "MPO"])
def test_every_format_opens(kind: str, tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    path = tmp_path / "picture"  # the content decides, not the name
    Image.fromarray(scene()).save(path, kind)
    assert_close(opened(path).rgb_u8, scene(), 3.0 if kind in {*LOSSY, "MPO"} else 0.0)


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera stores it when the tag says `orientation`: what brings it upright, undone."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    return image.transpose(undo[orientation]) if orientation in undo else image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_comes_out_upright(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "turned"
    turn(Image.fromarray(scene()), orientation).save(path, kind, exif=exif)
    assert_close(opened(path).rgb_u8, scene(), 3.0 if kind in LOSSY else 0.0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode: str, tmp_path: Path) -> None:
    rgba = np.zeros((80, 80, 4), np.uint8)
    rgba[:40, :, 3] = 255
    image, path, options = Image.fromarray(rgba), tmp_path / "cutout.png", {}
    if mode == "P":
        image = Image.fromarray((rgba[:, :, 3] == 0).astype(np.uint8), "L").convert("P")
        image.putpalette([0, 0, 0, 9, 9, 9])
        options = {"transparency": 1}
    else:
        image = image.convert(mode)
    image.save(path, **options)
    found = opened(path).rgb_u8
    assert (found[:40] == 0).all()
    assert (found[40:] == 255).all()


def test_printers_colours_become_screen_colours(tmp_path: Path) -> None:
    Image.fromarray(scene()).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert_close(opened(tmp_path / "print.jpg").rgb_u8, scene(), 3.0)


def test_sixteen_bit_grays_keep_their_gradient(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 96).astype(np.uint16)
    Image.fromarray(np.tile(levels, (80, 1))).save(tmp_path / "scan.png")
    found = opened(tmp_path / "scan.png").rgb_u8
    assert found.shape == (80, 96, 3)
    np.testing.assert_allclose(found[0, :, 0], levels / 257, atol=1)


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    Image.fromarray(scene()).save(tmp_path / "same.png", icc_profile=lab.tobytes())
    assert_close(opened(tmp_path / "same.png").rgb_u8, scene(), 1.0)
    Image.fromarray(scene()).save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    assert_close(opened(tmp_path / "broken.png").rgb_u8, scene(), 0.0)


def test_the_capture_second_is_read_where_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:02:29 12:00:01"
    Image.fromarray(scene()).save(tmp_path / "dated.jpg", exif=exif)
    assert opened(tmp_path / "dated.jpg").second == 1709208001
    Image.fromarray(scene()).save(tmp_path / "undated.jpg")
    assert opened(tmp_path / "undated.jpg").second is None
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:13:99 yesterday"
    Image.fromarray(scene()).save(tmp_path / "odd.jpg", exif=exif)
    assert opened(tmp_path / "odd.jpg").second is None


def test_a_large_picture_is_shrunk_to_the_working_size(tmp_path: Path) -> None:
    Image.fromarray(scene(3000, 600)).save(tmp_path / "wide.png")
    found = opened(tmp_path / "wide.png").rgb_u8
    assert found.shape[1] == WORKING_SIDE_PX
    assert abs(found.shape[0] - 600 * WORKING_SIDE_PX / 3000) <= 1


@pytest.mark.parametrize(
    ("size", "found"),
    [((4032, 3024), (2016, 1512)), ((3024, 4032), (1512, 2016)), ((3071, 96), (2048, 64)), ((6200, 800), (1550, 200))],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(
    size: tuple[int, int], found: tuple[int, int], tmp_path: Path
) -> None:
    Image.fromarray(scene(*size)).save(tmp_path / "large.jpg", quality=95)
    picture = opened(tmp_path / "large.jpg").rgb_u8
    assert (picture.shape[1], picture.shape[0]) == found
    assert_close(picture, scene(*found), 3.0)


def test_threads_are_quiet_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # now each opening warns, and a warning is an error here
    Image.fromarray(scene()).save(tmp_path / "picture.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        shapes = list(pool.map(lambda _: opened(tmp_path / "picture.png").rgb_u8.shape, range(400)))
    assert set(shapes) == {(80, 96, 3)}
    assert warnings.filters == before


def test_a_file_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    assert code_of(tmp_path / "gone.jpg") == "unreadable"


def test_pixels_are_counted_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0)
    body = b"IHDR" + header
    data = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\1IDATx"
    (tmp_path / "claims.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert code_of(tmp_path / "claims.png") == "too-large"
    assert code_of(tmp_path / "claims.png", 200_000_000) == "truncated"


def test_a_file_of_another_kind_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    assert code_of(tmp_path / "page.jpg") == "not-a-picture"
    Image.fromarray(scene()).save(tmp_path / "moving.gif")
    assert code_of(tmp_path / "moving.gif") == "not-a-picture"


def test_a_decoder_that_gives_up_makes_the_picture_truncated(tmp_path: Path) -> None:
    data = bytearray(saved("AVIF"))
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    (tmp_path / "wiped.avif").write_bytes(data)
    assert code_of(tmp_path / "wiped.avif") == "truncated"


def test_the_file_itself_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(scene()).save(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    opened(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, kind, **options)
    return buffer.getvalue()


def tagged() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.DateTime] = "2024:02:29 12:00:01"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:02:29 12:00:01"
    return exif


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHOLE = [saved(kind, exif=tagged(), icc_profile=PROFILE) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]


def opens_or_says_why(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with contextlib.suppress(UnusablePicture):  # anything else that escapes fails the test
        picture = opened(path)
        assert picture.rgb_u8.ndim == 3


@given(data=st.binary(max_size=400))
def test_random_bytes_are_no_picture(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    opens_or_says_why(tmp_path_factory.mktemp("bytes") / "a.jpg", data)


HITS = st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), max_size=6)


@given(whole=st.sampled_from(WHOLE), kept=st.one_of(st.none(), st.integers(1, 2**16)), hits=HITS)
def test_damaged_pictures_open_or_say_why(
    whole: bytes, kept: int | None, hits: list[tuple[int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(whole)
    for place, junk in hits:
        start = place % len(data)
        data[start : start + len(junk)] = junk
    opens_or_says_why(tmp_path_factory.mktemp("bytes") / "a.jpg", bytes(data[:kept]))
