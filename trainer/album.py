"""The album: every picture file of a photos folder, its sub-folders and zip archives, under a stable name.

Nothing is decoded here and nothing is written but the pictures of archives, below the folder given for that, under
names of our own. What cannot be a photo becomes a line of rejected.jsonl.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trainer.archive import Archive, BadArchive, Entry, open_archive
from trainer.errors import PhotosError
from trainer.records import PhotoFile, Rejection
from trainer.run import sha256_of

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp"})
CACHE = ".cache"  # below a subject's runs; `trainer forget` deletes it with them
LOOKS = "looks"  # in there: what `prepare` saw in each photo
MAX_PHOTOS = 2000
MAX_FILES = 100_000  # looked at by name; a home folder given by mistake ends here
MAX_DEPTH = 16
CAPTION_SUFFIX = ".txt"
MAX_CAPTION_BYTES = 64 * 2**10
TOO_LONG = f"longer than {MAX_CAPTION_BYTES >> 10} KiB, so no caption"
NEED = "put at least 12 photos of the person there"


@dataclass(frozen=True, slots=True)
class Album:
    """What was found.

    Attributes:
        photos: sorted by name.
        refused: files and archive entries that cannot be photos, with the reason.
        captions: the .txt file beside a photo, by the photo's name; only where they were asked for, and not read.
    """

    photos: tuple[PhotoFile, ...]
    refused: tuple[Rejection, ...] = ()
    captions: Mapping[str, PhotoFile] = field(default_factory=dict)

    def paths(self) -> dict[str, Path]:
        """Where each photo can be read, by name."""
        return {photo.name: photo.path for photo in self.photos}


@dataclass
class _Found:
    """Names and files while looking."""

    pictures: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, Path] = field(default_factory=dict)
    refused: list[Rejection] = field(default_factory=list)


def read_album(photos: Path, cache: Path, captions: bool = False) -> Album:
    """Every picture below a folder, or in a .zip; archives are unpacked once into `cache/unpacked`.

    With `captions` also the .txt files that are called as a picture beside them.

    Raises PhotosError for a place that is missing, holds no picture, or far too many files, and for an archive's
    caption that must not be unpacked.
    """
    found = _Found()
    if photos.is_file() and photos.suffix.lower() == ".zip":
        files, root = [photos], photos.parent
    elif photos.is_dir():
        files, root = list(_walk(photos)), photos
    else:
        raise PhotosError(f"{photos}: no such folder", f"{NEED}, or pass --photos FOLDER")
    archives = {}
    for path in files:
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() == ".zip":
            archives[name] = path
        else:
            _take(name, path, found)
    for name, path in archives.items():
        _take_archive(name, path, cache, found, captions)
    if not found.pictures:
        kinds = ", ".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
        said = "".join(f"\n  {one.file}: {one.reason} ({one.code})" for one in found.refused[:20])
        raise PhotosError(f"{photos}: no pictures in it{said}", f"{NEED} ({kinds})")
    return _album(found, captions)


def _album(found: _Found, captions: bool) -> Album:
    """Every file hashed; a picture that cannot be read is a line."""
    photos = []
    for name, path in sorted(found.pictures.items()):
        try:
            photos.append(PhotoFile(name, path, sha256_of(path)))
        except OSError as error:
            found.refused.append(Rejection(name, "unreadable", f"cannot be read: {error.strerror}", "see its rights"))
    return Album(tuple(photos), tuple(found.refused), _captions(photos, found.texts) if captions else {})


def _captions(photos: Iterable[PhotoFile], texts: Mapping[str, Path]) -> dict[str, PhotoFile]:
    """The text of each photo that has one. Raises PhotosError for one that is too long or cannot be hashed."""
    by_stem = {_stem(name): name for name in texts}
    beside = {photo.name: by_stem[_stem(photo.name)] for photo in photos if _stem(photo.name) in by_stem}
    try:
        for name in beside.values():
            if texts[name].stat().st_size > MAX_CAPTION_BYTES:
                raise PhotosError(f"{name}: {TOO_LONG}", "shorten it, or give it another name")
        return {photo: PhotoFile(name, texts[name], sha256_of(texts[name])) for photo, name in beside.items()}
    except OSError as error:
        raise PhotosError(f"{error.filename}: cannot be read: {error.strerror}", "see its rights") from None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _walk(folder: Path) -> Iterator[Path]:
    """Files in the order of their names; hidden ones, links to folders and what lies too deep are passed over."""
    count = 0
    for here, folders, names in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not _hidden(name)) if depth < MAX_DEPTH else []
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                raise PhotosError(f"{folder}: more than {MAX_FILES} files", "give a folder that holds only the photos")
            path = Path(here) / name
            if not _hidden(name) and path.is_file():
                yield path


def _take(name: str, path: Path, found: _Found) -> None:
    if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES:
        found.pictures[name] = path
        if len(found.pictures) > MAX_PHOTOS:
            raise PhotosError(f"more than {MAX_PHOTOS} pictures", "keep the best ones")
    elif PurePosixPath(name).suffix.lower() == CAPTION_SUFFIX:
        found.texts[name] = path


def _take_archive(name: str, path: Path, cache: Path, found: _Found, captions: bool) -> None:
    """The pictures of an archive, under `archive.zip/path/in/it`."""
    unpacked: Path | None = None
    try:
        with open_archive(path) as archive:
            for entry in archive.entries():
                full = f"{name}/{entry.name}"
                if _passed_over(entry):
                    continue
                try:
                    if full in found.pictures:
                        raise BadArchive("duplicate-name", "the archive has another file of this name", "rename one")
                    unpacked = unpacked or cache / "unpacked" / sha256_of(path)[:16]
                    _take(full, archive.unpack(entry, unpacked), found)
                except BadArchive as problem:
                    found.refused.append(Rejection(full, problem.code, problem.reason, problem.hint))
            if captions and unpacked:
                _take_texts(name, archive, unpacked, found)
    except BadArchive as problem:
        found.refused.append(Rejection(name, problem.code, problem.reason, problem.hint))


def _take_texts(name: str, archive: Archive, unpacked: Path, found: _Found) -> None:
    """The archive's .txt files that are called as one of its pictures. Raises PhotosError for an unsafe one."""
    stems = {_stem(picture) for picture in found.pictures}
    for entry in archive.entries():
        full = f"{name}/{entry.name}"
        if PurePosixPath(full).suffix.lower() == CAPTION_SUFFIX and _stem(full) in stems:
            if entry.info.file_size > MAX_CAPTION_BYTES:
                raise PhotosError(f"{full}: {TOO_LONG}", "shorten it, or take it out of the archive")
            try:
                _take(full, archive.unpack(entry, unpacked), found)
            except BadArchive as problem:
                raise PhotosError(f"{full}: {problem.reason}", problem.hint) from None


def _passed_over(entry: Entry) -> bool:
    path = PurePosixPath(entry.name.replace("\\", "/"))
    suffix = path.suffix.lower()
    wanted = suffix in PICTURE_SUFFIXES or suffix == ".zip"
    return not wanted or any(_hidden(part) for part in path.parts if part != "..")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
