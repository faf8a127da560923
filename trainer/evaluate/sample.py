"""Pictures on fixed prompts and seeds, kept as they come: an interrupted evaluation makes only those that miss."""

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
    """How pictures are made; units as in `trainer.recipe.EvaluateSection`."""

    steps: int
    guidance: float
    batch_size: int


def sample_prompts(
    base: Base, prompts: Sequence[Prompt], seeds: int, sampling: Sampling, folder: Path, console: Console, label: str
) -> list[list[RGB]]:
    """`seeds` pictures a prompt, in prompt order, written to `folder`/<prompt>-<seed>.png.

    Whole batches that are already there are read back: batches stay the same, so a picture's bits do too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = sampling_jobs(prompts, seeds)
    files = [folder / picture_name(row, seed) for row, seed in jobs]
    with console.progress(label, len(jobs)) as tick:
        for start in range(0, len(jobs), sampling.batch_size):
            batch = jobs[start : start + sampling.batch_size]
            targets = files[start : start + sampling.batch_size]
            if not all(target.is_file() for target in targets):
                _make(base, [prompts[row].text for row, _ in batch], [seed for _, seed in batch], sampling, targets)
            tick(len(batch))
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return [pictures[row * seeds : (row + 1) * seeds] for row in range(len(prompts))]


def sampling_jobs(prompts: Sequence[Prompt], seeds: int) -> list[tuple[int, int]]:
    """(prompt index, seed) of every picture, in the order in which batches are cut."""
    return [(row, seed) for row in range(len(prompts)) for seed in range(seeds)]


def picture_name(prompt: int, seed: int) -> str:
    """File name of one picture."""
    return f"{prompt:02d}-{seed}.png"


def _make(base: Base, texts: Sequence[str], seeds: Sequence[int], sampling: Sampling, targets: Sequence[Path]) -> None:
    def keep(index: int, rgb_u8: RGB) -> None:
        part = targets[index].with_suffix(".part")
        Image.fromarray(rgb_u8).save(part, "PNG")
        part.replace(targets[index])

    base.sample(texts, seeds, sampling.steps, sampling.guidance, len(texts), keep)
