"""Faces and words of many pictures, kept in chunks named by their pixels: a stopped run goes on, none goes stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ages import AgeReader
from pictures import save_whole

from trainer.evaluate.judge import look
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import Detector, get_detector, get_embedder
from trainer.records import RGB, Face
from trainer.weights import WEIGHTS

CHUNK = 250


def embedded(pictures: Sequence[RGB], engine: str, weights: Path, cache: Path) -> np.ndarray:
    """(n, d) float32 unit vectors of each picture's largest face, zero where none is found."""
    detector, embedder = get_detector(weights), get_embedder(engine, weights)
    rows = []
    for chunk, file in _chunks(pictures, cache, engine, embedder.sha256, ".npy"):
        if not file.exists():
            save_whole(file, look(chunk, detector, embedder).vectors)
        rows.append(np.load(file))
    width = max(part.shape[1] for part in rows)
    return np.concatenate([part if part.shape[1] else np.zeros((len(part), width), np.float32) for part in rows])


def words_in(
    pictures: Sequence[RGB], weights: Path, cache: Path, expressions: Sequence[str | None] | None = None
) -> list[list[str]]:
    """The probe's words of each picture's main face; none where no face is found.

    A known one of the `expressions` is not measured.
    """
    detector, reader = get_detector(weights), AttributeReader(weights)
    words: list[list[str]] = []
    model = f"{WEIGHTS['fr_expression.onnx'].sha256} {expressions}"
    for chunk, file in _chunks(pictures, cache, "words", model, ".json"):
        if not file.exists():
            told = expressions[len(words) :] if expressions else [None] * len(chunk)
            found = main_faces(detector, chunk)
            read = [
                reader.read(picture, face, expression).words() if face else []
                for picture, face, expression in zip(chunk, found, told, strict=False)
            ]
            file.with_suffix(".part").write_text(json.dumps(read))
            file.with_suffix(".part").replace(file)
        words += json.loads(file.read_text())
    return words


def ages_in(pictures: Sequence[RGB], weights: Path, cache: Path) -> np.ndarray:
    """(n, 2) float32: years of each picture's main face and the probability that it is a man's; NaN without a face."""
    detector, reader = get_detector(weights), AgeReader(weights)
    rows = []
    for chunk, file in _chunks(pictures, cache, "mean-ages", WEIGHTS["age_gender_model.bin"].sha256, ".npy"):
        if not file.exists():
            faces = main_faces(detector, chunk)
            found = np.full((len(chunk), 2), np.nan, np.float32)
            there = [index for index, face in enumerate(faces) if face]
            if there:
                found[there] = reader.read([chunk[i] for i in there], [face for face in faces if face])
            save_whole(file, found)
        rows.append(np.load(file))
    return np.concatenate(rows)


def main_faces(detector: Detector, pictures: Sequence[RGB]) -> list[Face | None]:
    """The widest face of each picture; None where none is found."""
    return [max(detector.detect(picture), key=lambda face: face.width, default=None) for picture in pictures]


def _chunks(
    pictures: Sequence[RGB], cache: Path, what: str, model: str, suffix: str
) -> Iterator[tuple[list[RGB], Path]]:
    cache.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(pictures), CHUNK):
        chunk = [np.ascontiguousarray(picture) for picture in pictures[start : start + CHUNK]]
        key = hashlib.sha256(model.encode())
        for picture in chunk:
            key.update(picture)
        yield chunk, cache / f"{what}-{key.hexdigest()[:24]}{suffix}"
