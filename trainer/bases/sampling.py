"""Pictures on fixed prompts and seeds, kept as they come: who is interrupted later makes only those that miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.bases.base import Base
from trainer.console import Console
from trainer.records import RGB, Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How pictures are made; units as in `trainer.sections.EvaluateSection`, with the precision resolved."""

    steps: int
    guidance: float
    batch_size: int
    precision: str = "fp32"


def sample_prompts(
    base: Base, prompts: Sequence[Prompt], seeds: range, sampling: Sampling, folder: Path, console: Console, label: str
) -> int:
    """A picture for every prompt and seed, in `folder`/<prompt>-<seed>.png; returns how many were made now.

    Whole batches that are already there are left: batches stay the same, so a picture's bits do too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs, files = sampling_jobs(len(prompts), seeds), sampled_files(folder, prompts, seeds)
    made = 0
    with console.progress(label, len(jobs)) as tick:
        for start in range(0, len(jobs), sampling.batch_size):
            batch = jobs[start : start + sampling.batch_size]
            targets = files[start : start + sampling.batch_size]
            if not all(target.is_file() for target in targets):
                _make(base, [prompts[row].text for row, _ in batch], [seed for _, seed in batch], sampling, targets)
                made += len(batch)
            tick(len(batch))
    return made


def read_pictures(folder: Path, prompts: Sequence[Prompt], seeds: range) -> list[list[RGB]]:
    """The pictures that `sample_prompts` left, by prompt and seed."""
    pictures = [read_picture(file) for file in sampled_files(folder, prompts, seeds)]
    return [pictures[row * len(seeds) : (row + 1) * len(seeds)] for row in range(len(prompts))]


def read_picture(file: Path) -> RGB:
    """The (height, width, 3) uint8 pixels of a picture of our own making."""
    return np.asarray(Image.open(file).convert("RGB"))


def sampled_files(folder: Path, prompts: Sequence[Prompt], seeds: range) -> list[Path]:
    """The file of every picture, in the order in which batches are cut."""
    return [folder / picture_name(row, seed) for row, seed in sampling_jobs(len(prompts), seeds)]


def sampling_jobs(prompts: int, seeds: range) -> list[tuple[int, int]]:
    """(prompt index, seed) of every picture, in the order in which batches are cut."""
    return [(row, seed) for row in range(prompts) for seed in seeds]


def picture_name(prompt: int, seed: int) -> str:
    """File name of one picture."""
    return f"{prompt:02d}-{seed}.png"


def _make(base: Base, texts: Sequence[str], seeds: Sequence[int], sampling: Sampling, targets: Sequence[Path]) -> None:
    def keep(index: int, rgb_u8: RGB) -> None:
        part = targets[index].with_suffix(".part")
        Image.fromarray(rgb_u8).save(part, "PNG")
        part.replace(targets[index])

    base.sample(texts, seeds, sampling.steps, sampling.guidance, len(texts), keep)
