"""Zip archives of photos, bounded before anything is unpacked: entries, sizes, ratio, paths, encryption, nesting."""

from __future__ import annotations

import errno
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_ENTRIES = 20_000
MAX_DIRECTORY_BYTES = 16 * 2**20  # the list of entries, which zipfile reads into memory as a whole
MAX_ENTRY_BYTES = 256 * 2**20
MAX_UNPACKED_BYTES = 16 * 2**30
MAX_RATIO = 200  # unpacked to packed; photos hardly shrink at all
RATIO_FROM_BYTES = 2**20
CHUNK = 2**20
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_BYTES = 20
# What zipfile and its unpackers raise on damaged files; an OSError of theirs has no number, or that of a bad offset.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, OSError,
)  # fmt: skip


class BadArchive(Exception):
    """Raise this for an archive, or one entry of it, that is not used; it becomes one line of rejected.jsonl."""

    def __init__(self, code: str, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.code, self.reason, self.hint = code, reason, hint


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive: its name as written there, and where it stands in the list."""

    name: str
    index: int
    info: zipfile.ZipInfo


class Archive:
    """An open archive."""

    def __init__(self, handle: zipfile.ZipFile) -> None:
        self._zip, self._bytes = handle, 0

    def entries(self) -> Iterator[Entry]:
        """Every file, in the archive's order."""
        for index, info in enumerate(self._zip.infolist()):
            if not info.filename.endswith("/"):  # is_dir() fails on a name that damage made empty
                yield Entry(info.filename, index, info)

    def unpack(self, entry: Entry, folder: Path) -> Path:
        """The entry as a file of ours in `folder`, whole or not at all; one that lies there already is kept.

        Raises BadArchive: `unsafe-path`, `nested-archive`, `encrypted`, `too-large`, `archive-too-large`, `truncated`.
        """
        check_entry(entry)
        self._bytes += entry.info.file_size
        if self._bytes > MAX_UNPACKED_BYTES:
            raise BadArchive("archive-too-large", f"over {MAX_UNPACKED_BYTES >> 30} GiB unpacked", "split the archive")
        target = folder / f"{entry.index:05d}{PurePosixPath(entry.name).suffix.lower()}"
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            self._copy(entry, target)
        return target

    def _copy(self, entry: Entry, target: Path) -> None:
        part, left = target.with_suffix(f".{os.getpid()}.part"), entry.info.file_size
        try:
            with self._zip.open(entry.info) as source, part.open("wb") as copy:
                while data := source.read(CHUNK):
                    left -= len(data)
                    if left < 0:
                        raise zipfile.BadZipFile("longer than it says")
                    copy.write(data)
        except DAMAGE as error:
            part.unlink(missing_ok=True)
            _raise_disk_error(error)
            raise BadArchive("truncated", f"cannot be unpacked: {error}", "make the archive again") from None
        part.replace(target)


def check_entry(entry: Entry) -> None:
    """Raises BadArchive for what must not be unpacked."""
    info, path = entry.info, PurePosixPath(entry.name.replace("\\", "/"))
    packed = max(info.compress_size, 1)
    if not path.parts:
        raise BadArchive("unsafe-path", "it has no name", "make the archive again")
    if path.is_absolute() or ".." in path.parts or "\0" in entry.name or (path.parts and ":" in path.parts[0]):
        raise BadArchive("unsafe-path", "its path leads out of the archive", "make the archive again")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise BadArchive("unsafe-path", "it is a link, not a file", "put the photo itself into the archive")
    if path.suffix.lower() == ".zip":
        raise BadArchive("nested-archive", "an archive in an archive", "unpack it")
    if info.flag_bits & 1:
        raise BadArchive("encrypted", "it is encrypted", "unpack the archive and give the folder")
    if info.file_size > MAX_ENTRY_BYTES:
        raise BadArchive("too-large", f"{info.file_size / 2**20:.0f} MiB unpacked", "export a smaller copy")
    if info.file_size > RATIO_FROM_BYTES and info.file_size / packed > MAX_RATIO:
        raise BadArchive("too-large", f"unpacks to {info.file_size // packed} times its size", "this is no photo")


def _raise_disk_error(error: Exception) -> None:
    """A full disk or a file without rights is not the archive's fault."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An archive whose list of entries is bounded. Raises BadArchive: `not-an-archive` or `archive-too-large`."""
    try:
        _check_directory(path)
        handle = zipfile.ZipFile(path)
    except DAMAGE as error:
        _raise_disk_error(error)
        raise BadArchive("not-an-archive", f"cannot be read as zip: {error}", "make the archive again") from None
    with handle:
        yield Archive(handle)


def _check_directory(path: Path) -> None:
    """Read the end records (APPNOTE 6.3.10, section 4.3.14-16) before zipfile reads the list that they announce."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 2**16 - END.size - LOCATOR_BYTES - END_64.size))
        tail = handle.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise zipfile.BadZipFile("no end record")
    *_, entries, directory_bytes, _, _ = END.unpack_from(tail, at)
    before = at - LOCATOR_BYTES
    if before >= END_64.size and tail[before : before + 4] == b"PK\x06\x07":
        *_, entries, directory_bytes, _ = END_64.unpack_from(tail, before - END_64.size)
    if entries > MAX_ENTRIES or directory_bytes > MAX_DIRECTORY_BYTES:
        raise BadArchive("archive-too-large", f"{entries} entries, at most {MAX_ENTRIES}", "split the archive")
