"""Pictures made for some prompts, what an embedder saw in them, and the base's own ones, kept for the next run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trainer.bases.base import Base
from trainer.bases.sampling import Sampling, sampled_files
from trainer.evaluate.judge import Seen, look
from trainer.faces.base import Detector, Embedder
from trainer.records import RGB, Face, Floats, Prompt
from trainer.run import fingerprint_of

KEPT_SETS = 64  # sets of the base's pictures in the cache, some 26 pictures each; the oldest go first
LOOKS = ".looks"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures made for some prompts, by prompt and seed, and what an embedder saw in them."""

    prompts: Sequence[Prompt]
    pictures: list[list[RGB]]
    seen: Seen

    def cosines(self, others: Floats) -> Floats:
        """(prompts, seeds, len(others)) cosines."""
        flat = self.seen.cosines(others)
        return flat.reshape(len(self.prompts), len(flat) // len(self.prompts), flat.shape[1])

    def rows(self, style: bool) -> list[int]:
        """Indices of the style prompts, or of all others."""
        return [index for index, prompt in enumerate(self.prompts) if (prompt.group == "style") == style]

    def flat(self) -> list[RGB]:
        """All pictures, in the order of `seen`."""
        return [picture for row in self.pictures for picture in row]


def take_set(kept: Path, target: Path) -> None:
    """Copy a set of pictures, whole or not at all, where it is kept and nothing lies at the target yet."""
    if not kept.is_dir() or target.exists():
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(kept, part)
    part.rename(target)


@dataclass(frozen=True, slots=True)
class BasePictures:
    """What the base makes without an adapter, kept across runs: it is nobody's picture and always the same.

    `folder` holds one folder a set, named by the hash of all that decides the pictures' bits, and below `LOOKS` what
    was seen in them, named by the hash of the pictures and of who looked.
    """

    folder: Path

    def take(self, base: Base, prompts: Sequence[Prompt], seeds: range, sampling: Sampling, target: Path) -> None:
        """Copy the set into `target`, where it is kept; a target that already holds pictures is left as it is."""
        take_set(self._place(base, prompts, seeds, sampling), target)

    def keep(self, base: Base, prompts: Sequence[Prompt], seeds: range, sampling: Sampling, made: Path) -> None:
        """Copy a whole set out of `made`; the caller vouches that the base made it just now."""
        kept = self._place(base, prompts, seeds, sampling)
        if kept.is_dir():
            return
        part = kept.with_name(f".{kept.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file in sampled_files(made, prompts, seeds):
            shutil.copyfile(file, part / file.name)
        part.rename(kept)
        for old in _oldest(self.folder):
            shutil.rmtree(old, ignore_errors=True)

    def look(self, pictures: Sequence[Sequence[RGB]], detector: Detector, embedder: Embedder) -> Seen:
        """`judge.look` at these pictures of a base, once for all runs."""
        flat = [picture for row in pictures for picture in row]
        told = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in flat]
        library = importlib.metadata.version("onnxruntime")
        name = fingerprint_of(pictures=told, detector=detector.sha256, embedder=embedder.sha256, library=library)[:32]
        file = self.folder / LOOKS / f"{name}.safetensors"
        try:
            return _read_seen(file, len(flat))
        except (OSError, SafetensorError, KeyError, ValueError):  # not there yet, or spoilt
            seen = look(flat, detector, embedder)
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_seen(file, seen)
        for old in _oldest(file.parent):
            old.unlink(missing_ok=True)
        return seen

    def _place(self, base: Base, prompts: Sequence[Prompt], seeds: range, sampling: Sampling) -> Path:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers")}
        decides = {
            "base": base.sha256,
            "prompts": [prompt.text for prompt in prompts],
            "seeds": list(seeds),
            "sampling": asdict(sampling),
            "machine": [str(next(base.denoiser.parameters()).device), torch.get_num_threads()],
        }
        return self.folder / fingerprint_of(**decides, versions=versions)[:32]


def _write_seen(file: Path, seen: Seen) -> None:
    """Whole or not at all; boxes, landmarks and scores are zero where no face was found."""
    faces = [face or Face((0.0, 0.0, 0.0, 0.0), np.zeros((5, 2), np.float32), 0.0) for face in seen.faces]
    tensors: dict[str, npt.NDArray[Any]] = {
        "vectors": seen.vectors,
        "found": seen.detected,
        "boxes": np.array([face.box for face in faces], np.float64),
        "landmarks": np.array([face.landmarks for face in faces], np.float32),
        "scores": np.array([face.score for face in faces], np.float64),
    }
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    save_file(tensors, part)
    part.replace(file)


def _read_seen(file: Path, pictures: int) -> Seen:
    """What `_write_seen` wrote. Raises ValueError where it is of another number of pictures."""
    kept = load_file(file)
    if len(kept["found"]) != pictures:
        raise ValueError(f"{file} holds {len(kept['found'])} looks, not {pictures}")
    rows = zip(kept["found"], kept["boxes"].tolist(), kept["landmarks"], kept["scores"].tolist(), strict=True)
    faces = [Face((a, b, c, d), points, score) if found else None for found, (a, b, c, d), points, score in rows]
    return Seen(kept["vectors"], tuple(faces))


def _oldest(folder: Path) -> list[Path]:
    """What is above the number that is kept."""
    return sorted(folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime)[:-KEPT_SETS]
