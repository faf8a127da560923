"""Mutated photos and archives of every kind: each is looked at or refused with a code, soon, and nothing else happens.

They are looked at in a process of their own, so that a crash or a hang of a decoder is a failure and not the end of the
tests. `make fuzz` runs 6,000 of them, the plain test run 60.
"""

import io
import json
import random
import select
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from conftest import hashes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

WORKER = Path(__file__).with_name("photo_worker.py")
MAX_SECONDS = 5.0  # of processor time a file
MAX_SILENCE = 120  # seconds on the clock: a busy machine is no hang
MAX_GROWTH_KIB = 3 * 2**20
CODES = {
    "seen", "photos", "not-a-picture", "truncated", "too-large", "too-small", "not-an-archive", "unsafe-path",
    "nested-archive", "encrypted", "archive-too-large", "duplicate-name",
}  # fmt: skip
SIZES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 10_000, 12_000, 60_000, 2**31 - 1, 2**31, 2**32 - 1]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PATHS = [b"../../e.jpg", b"/tmp/ee.jpg", b"C:\\eeee.jpg", b"a\x00b/ee.jpg", b"..\\..\\e.jpg"]


def cut(data: bytes, luck: random.Random) -> bytes:
    return data[: luck.randrange(len(data))]


def flip(data: bytes, luck: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(luck.choice((1, 1, 4, 64))):
        changed[luck.randrange(min(len(changed), luck.choice((8, 64, 600, 10**9))))] = luck.randrange(256)
    return bytes(changed)


def splice(data: bytes, luck: random.Random) -> bytes:
    a, b = sorted(luck.randrange(len(data)) for _ in range(2))
    return data[:a] + luck.choice((b"", data[a:b] * 2, luck.randbytes(min(b - a, 4096)))) + data[b:]


def resize(data: bytes, luck: random.Random) -> bytes:
    """Another number of 2, 4 or 8 bytes somewhere near the start or the end, where sizes and offsets stand."""
    kind = luck.choice(("<H", ">H", "<I", ">I", ">Q"))
    number = struct.pack(kind, luck.choice(SIZES) % 2 ** (8 * struct.calcsize(kind)))
    at = luck.randrange(min(len(data), luck.choice((32, 256, 2048))))
    if luck.random() < 0.3:
        at = len(data) - 1 - at
    return data[:at] + number + data[at + len(number) :]


def mend(data: bytes, luck: random.Random) -> bytes:
    """A PNG whose header was changed, with check sums that hold again."""
    if not data.startswith(b"\x89PNG"):
        return flip(data, luck)
    changed, at = bytearray(resize(data, luck)), 8
    while at + 12 <= len(changed):
        (length,) = struct.unpack_from(">I", changed, at)
        if at + 12 + length > len(changed):
            break
        struct.pack_into(">I", changed, at + 8 + length, zlib.crc32(changed[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(changed)


def rename(data: bytes, luck: random.Random) -> bytes:
    """Names of an archive's entries that lead elsewhere."""
    return data.replace(b"DCIM/" + luck.choice((b"0", b"1")) + b".jpg", luck.choice(PATHS)[:10].ljust(10, b"g"))


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (cut, flip, splice, resize, mend, rename)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tagged() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:02:29 12:00:01"
    return exif


@pytest.fixture(scope="module")
def originals(demo_files: list[Path]) -> list[tuple[str, bytes]]:
    """Suffix and content of one real file of every kind that is read, and of some that are not."""
    pillow_heif.register_heif_opener()
    with Image.open(demo_files[0]) as opened:
        face = opened.convert("RGB").resize((160, 144))
    gray16 = Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257)
    extra = {"exif": tagged(), "icc_profile": PROFILE}
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", face, extra), ("JPEG", face.convert("CMYK"), {}), ("JPEG", face, {"progressive": True}),
        ("MPO", face, {"save_all": True, "append_images": [face]}),
        ("PNG", face, extra), ("PNG", gray16, {}), ("PNG", face.convert("P"), {"transparency": 3}),
        ("PNG", face, {"save_all": True, "append_images": [face.rotate(9)]}),
        ("WEBP", face, extra), ("WEBP", face, {"lossless": True}),
        ("WEBP", face, {"save_all": True, "append_images": [face.rotate(9)]}),
        ("HEIF", face, extra), ("AVIF", face, extra),
        ("TIFF", face, extra), ("TIFF", face, {"compression": "tiff_lzw"}), ("TIFF", face, {"compression": "jpeg"}),
        ("TIFF", gray16, {"compression": "tiff_adobe_deflate"}),
        ("BMP", face, {}), ("BMP", face.convert("P"), {}),
        ("GIF", face, {"save_all": True, "append_images": [face.rotate(9)]}),
    ]  # fmt: skip
    suffixes = {"MPO": ".jpg", "GIF": ".png"}  # the content decides
    files = [(suffixes.get(k, f".{k.lower()}"), saved(image, k, **options)) for k, image, options in kinds]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for index, (_, data) in enumerate(files[:2]):
                archive.writestr(f"DCIM/{index}.jpg", data)
        files += [(".zip", buffer.getvalue())] * 2  # an archive has more to break than a picture
    return files


class Watched:
    """The worker process, started anew where it has died."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._process: subprocess.Popen[str] | None = None

    def look(self, album: Path) -> dict[str, Any]:
        """The worker's answer. Fails the test where it says nothing for too long, or dies."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), str(self.home)], cwd=self.home, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert self._line() == "ready"
        assert self._process.stdin is not None
        self._process.stdin.write(f"{album}\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._line())
        return said

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], MAX_SILENCE)[0]:
            self.stop()
            pytest.fail(f"no answer for {MAX_SILENCE} s")
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            pytest.fail(f"the process died: {self._process.returncode}")
        return line.rstrip("\n")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    (home / "runs").mkdir()
    (home / "diary.txt").write_text("not to be touched")
    worker = Watched(home)
    yield worker
    worker.stop()


def check(original: tuple[str, bytes], how: list[int], seed: int, watched: Watched) -> None:
    suffix, data = original
    luck = random.Random(seed)
    for index in how:
        data = MUTATIONS[index](data, luck) or b"\0"
    file = watched.home / "photos" / f"mutant{suffix}"
    for old in file.parent.iterdir():
        old.unlink()
    file.write_bytes(data)
    said = watched.look(file.parent)
    assert set(said["ends"]) <= CODES
    assert said["ends"]
    assert said["seconds"] < MAX_SECONDS
    assert said["grown_kib"] < MAX_GROWTH_KIB
    assert said["outside"] == []
    assert file.read_bytes() == data
    assert {path.name for path in watched.home.iterdir()} == {"photos", "runs", "diary.txt"}
    runs = watched.home / "runs"
    assert {path.relative_to(runs).parts[:2] for path in runs.rglob("*")} <= {("alice",), ("alice", ".cache")}


mutants = given(
    original=st.integers(0, 23), how=st.lists(st.integers(0, len(MUTATIONS) - 1), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def test_every_original_is_looked_at(originals: list[tuple[str, bytes]], watched: Watched) -> None:
    assert len(originals) == 24
    ends = {}
    for index, (suffix, data) in enumerate(originals):
        folder = watched.home / "photos" / str(index)
        folder.mkdir()
        (folder / f"whole{suffix}").write_bytes(data)
        ends[index, suffix] = set(watched.look(folder)["ends"])
        (folder / f"whole{suffix}").unlink()
        folder.rmdir()
    assert {key: found for key, found in ends.items() if found != {"seen"}} == {(19, ".png"): {"not-a-picture"}}


@pytest.mark.fuzz
@settings(max_examples=6000, suppress_health_check=quiet)
@mutants
def test_no_mutated_photo_breaks_the_looking(
    original: int, how: list[int], seed: int, originals: list[tuple[str, bytes]], watched: Watched
) -> None:
    check(originals[original], how, seed, watched)


@settings(max_examples=60, suppress_health_check=quiet)
@mutants
def test_a_slice_of_them(
    original: int, how: list[int], seed: int, originals: list[tuple[str, bytes]], watched: Watched
) -> None:
    before = hashes(watched.home / "photos")
    check(originals[original], how, seed, watched)
    assert before.keys() <= {f"mutant{suffix}" for suffix, _ in originals}
