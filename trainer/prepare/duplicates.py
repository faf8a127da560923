"""Photos that are nearly one photo: they must share a role, or the seal leaks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image

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
    """64-bit DCT hash, hex; of a picture that is first shrunk by a whole number, which is quicker."""
    height, width = rgb_u8.shape[:2]
    factor = max(1, min(height, width) // HASHED_SIDE_PX)
    small = rgb_u8[: height // factor * factor, : width // factor * factor]
    small = cv2.resize(small, (width // factor, height // factor), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return str(imagehash.phash(Image.fromarray(small)))


def near_duplicate_groups(photos: Sequence[Photo], burst: float) -> list[tuple[str, ...]]:
    """Names of photos that belong together, each group sorted; every photo is in exactly one.

    Two photos belong together when their bytes, their perceptual hash (within 6 bits) or their capture second are the
    same, or when the gate finds them closer than `burst`.
    """
    alike = cosine_matrix([p.embedding for p in photos], [p.embedding for p in photos])
    shots = [Shot(photo.sha256, photo.phash, photo.second) for photo in photos]
    root = list(range(len(photos)))

    def find(index: int) -> int:
        while root[index] != index:
            index = root[index]
        return index

    for i, j in combinations(range(len(photos)), 2):
        if alike[i, j] >= burst or same_shot(shots[i], shots[j]):
            root[find(j)] = find(i)
    groups: dict[int, list[str]] = {}
    for index, photo in enumerate(photos):
        groups.setdefault(find(index), []).append(photo.name)
    return sorted(tuple(sorted(names)) for names in groups.values())


def same_shot(a: Shot, b: Shot) -> bool:
    """Whether bytes, capture second or perceptual hash say so."""
    if a.sha256 == b.sha256 or (a.second is not None and a.second == b.second):
        return True
    return imagehash.hex_to_hash(a.phash) - imagehash.hex_to_hash(b.phash) <= PHASH_BITS
