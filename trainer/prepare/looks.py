"""Look at every photo once: decode it, find its faces, measure and embed them; what was seen is kept.

Photos are looked at in threads, a few ahead of the caller, so memory does not grow with the album. What was seen goes
into one small file a photo in the subject's cache: an interrupted stage goes on where it stopped, and one photo more
costs one look more. All of it is known before the seal is dealt; no pixel, name or caption is kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.album import LOOKS
from trainer.faces.base import Detector, Embedder
from trainer.pictures import UnusablePicture, open_picture
from trainer.prepare.duplicates import perceptual_hash
from trainer.prepare.quality import Quality, measure
from trainer.records import Face, Floats, PhotoFile
from trainer.run import canonical_json, write_text

VERSION = 2  # raise it when a look finds other things in the same photo
MAX_FACES = 12  # of a crowd, the widest
MAX_ENTRY_BYTES = 2**20
THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
AHEAD = 2 * THREADS
DECODERS = ("pillow", "pillow-heif", "opencv-python", "onnxruntime")  # another version may see other pixels


@dataclass(frozen=True, slots=True)
class SeenFace:
    """A face with the gate's (d,) unit vector and its numbers."""

    face: Face
    embedding: Floats
    quality: Quality


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen in one photo.

    Attributes:
        size: (width, height) in pixels of the upright picture as it was looked at; boxes and landmarks refer to it.
        phash: 64-bit perceptual hash, hex.
        second: capture time in seconds since the epoch, where EXIF has it.
        faces: every face the detector reports, the widest first, at most 12; empty where there is none.
    """

    size: tuple[int, int]
    phash: str
    second: int | None
    faces: tuple[SeenFace, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """The models that look, and the largest picture that is opened, in pixels."""

    detector: Detector
    gate: Embedder
    max_pixels: int

    def key(self) -> str:
        """Hash of everything but the photo that a look depends on."""
        versions = [importlib.metadata.version(name) for name in DECODERS]
        of = [VERSION, self.detector.sha256, self.gate.name, self.gate.sha256, self.max_pixels, versions]
        return hashlib.sha256(canonical_json(of).encode()).hexdigest()


Seen = Look | UnusablePicture


def look(path: Path, sight: Sight) -> Look:
    """Everything that one photo shows. Raises UnusablePicture for a file that cannot be opened."""
    picture = open_picture(path, sight.max_pixels)
    rgb_u8 = picture.rgb_u8
    found = sorted(sight.detector.detect(rgb_u8), key=lambda face: -face.width)[:MAX_FACES]
    faces = (
        SeenFace(face, sight.gate.embed(rgb_u8, face), measure(rgb_u8, face, picture.jpeg_quality)) for face in found
    )
    return Look((rgb_u8.shape[1], rgb_u8.shape[0]), perceptual_hash(rgb_u8), picture.second, tuple(faces))


class Looks:
    """Looks through a `Sight` and remembers below `cache`; an entry that cannot be read is made anew."""

    def __init__(self, sight: Sight, cache: Path) -> None:
        self._sight, self._folder = sight, cache / LOOKS
        self._key = sight.key()

    def through(self, photos: Sequence[PhotoFile]) -> Iterator[tuple[PhotoFile, Seen]]:
        """Each photo, in order, with what was seen or why nothing could be.

        After the last one, what is remembered of photos that are not among these is deleted.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        ahead: deque[tuple[PhotoFile, Seen | Future[Look]]] = deque()
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for photo in photos:
                    known = read_entry(self._entry(photo), self._id(photo))
                    ahead.append((photo, known or pool.submit(look, photo.path, self._sight)))
                    if len(ahead) > AHEAD:
                        yield self._next(ahead)
                while ahead:
                    yield self._next(ahead)
            finally:
                pool.shutdown(cancel_futures=True)
        self._drop_others(photos)

    def _next(self, ahead: deque[tuple[PhotoFile, Seen | Future[Look]]]) -> tuple[PhotoFile, Seen]:
        photo, coming = ahead.popleft()
        if not isinstance(coming, Future):
            return photo, coming
        seen: Seen
        try:
            seen = coming.result()
        except UnusablePicture as problem:
            seen = problem
            if problem.code == "unreadable":  # the disk's answer today, not the photo's
                return photo, seen
        # Only one thread writes: copies of one photo share an entry.
        write_text(self._entry(photo), entry_text(seen, self._id(photo)))
        return photo, seen

    def _id(self, photo: PhotoFile) -> str:
        return hashlib.sha256(f"{self._key} {photo.sha256}".encode()).hexdigest()

    def _entry(self, photo: PhotoFile) -> Path:
        return self._folder / f"{self._id(photo)}.json"

    def _drop_others(self, photos: Sequence[PhotoFile]) -> None:
        wanted = {self._entry(photo).name for photo in photos}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                path.unlink()


def entry_text(seen: Seen, key: str) -> str:
    """One JSON object: the entry's key, what was seen, and the hash of both."""
    said = {"key": key, **_as_json(seen)}
    return canonical_json({"sha256": _digest(said), "seen": said}) + "\n"


def read_entry(path: Path, key: str) -> Seen | None:
    """What `entry_text` wrote for this key; None where there is nothing or anything else."""
    try:
        if path.stat().st_size > MAX_ENTRY_BYTES:
            return None
        whole = json.loads(path.read_bytes())
        said = whole["seen"]
        if whole["sha256"] != _digest(said) or said["key"] != key:
            return None
        return _from_json(said)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _digest(said: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()


def _as_json(seen: Seen) -> dict[str, Any]:
    if isinstance(seen, UnusablePicture):
        return {"problem": [seen.code, str(seen), seen.hint]}
    faces = [
        {
            "box": list(one.face.box), "landmarks": one.face.landmarks.tolist(), "score": one.face.score,
            "embedding": one.embedding.tolist(), "quality": asdict(one.quality),
        }
        for one in seen.faces
    ]  # fmt: skip
    return {"size": list(seen.size), "phash": seen.phash, "second": seen.second, "faces": faces}


def _from_json(said: dict[str, Any]) -> Seen:
    if "problem" in said:
        return UnusablePicture(*said["problem"])
    faces = tuple(
        SeenFace(
            Face(tuple(one["box"]), np.array(one["landmarks"], np.float32), one["score"]),
            np.array(one["embedding"], np.float32),
            Quality(**one["quality"]),
        )
        for one in said["faces"]
    )
    width, height = said["size"]
    return Look((width, height), said["phash"], said["second"], faces)
