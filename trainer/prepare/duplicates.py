"""Photos that are nearly one photo: they must share a role, or the seal leaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.faces.align import halved
from trainer.faces.base import cosine_matrix
from trainer.records import RGB, Photo

HASHED_SIDE_PX = 128
PHASH_BITS = 6  # of 64: recompressed, resized or slightly cropped copies differ by no more


class Shot(NamedTuple):
    """What tells a shot without looking at faces: SHA-256, perceptual hash, capture second where it is known."""

    sha256: str
    phash: str
    second: int | None


def perceptual_hash(rgb_u8: RGB) -> str:
    """64-bit DCT hash, hex; of a picture that is first halved while it stays larger than the hash needs."""
    halvings = max(0, (min(rgb_u8.shape[:2]) // HASHED_SIDE_PX).bit_length() - 1)
    return str(imagehash.phash(Image.fromarray(halved(rgb_u8, halvings))))


def near_duplicate_groups(photos: Sequence[Photo], burst: float) -> list[tuple[str, ...]]:
    """Names of photos that belong together, each group sorted; every photo is in exactly one.

    Two photos belong together when their bytes, their perceptual hash (within 6 bits) or their capture second are the
    same, or when the gate finds them closer than `burst`.
    """
    together = cosine_matrix([p.embedding for p in photos], [p.embedding for p in photos]) >= burst
    shots = [Shot(photo.sha256, photo.phash, photo.second) for photo in photos]
    return groups_of([photo.name for photo in photos], together | same_shots(shots, shots))


def groups_of(names: Sequence[str], together: npt.NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """The sorted groups of names that a symmetric (n, n) relation joins, directly or through others."""
    root = list(range(len(names)))

    def find(index: int) -> int:
        while root[index] != index:
            index = root[index]
        return index

    for i, row in enumerate(together):  # row by row: all pairs of a long burst would be millions
        for j in np.flatnonzero(row[i + 1 :]).tolist():
            root[find(i + 1 + j)] = find(i)
    groups: dict[int, list[str]] = {}
    for index, name in enumerate(names):
        groups.setdefault(find(index), []).append(name)
    return sorted(tuple(sorted(group)) for group in groups.values())


def same_shots(a: Sequence[Shot], b: Sequence[Shot]) -> npt.NDArray[np.bool_]:
    """(len(a), len(b)): whether bytes, capture second or perceptual hash say so."""
    bits = _hashes(a)[:, None] ^ _hashes(b)[None, :]
    seconds, sha256 = _seconds(a)[:, None] == _seconds(b), _bytes(a)[:, None] == _bytes(b)
    same: npt.NDArray[np.bool_] = (np.bitwise_count(bits) <= PHASH_BITS) | seconds | sha256
    return same


def _hashes(shots: Sequence[Shot]) -> npt.NDArray[np.uint64]:
    return np.array([int(shot.phash, 16) for shot in shots], np.uint64)


def _seconds(shots: Sequence[Shot]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if shot.second is None else shot.second for shot in shots], np.float64)


def _bytes(shots: Sequence[Shot]) -> npt.NDArray[np.str_]:
    return np.array([shot.sha256 for shot in shots], np.str_)
