"""Pictures made for some prompts, what an embedder saw in them, and the base's own ones, kept for the next run."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from trainer.bases.base import Base
from trainer.evaluate.judge import Seen
from trainer.evaluate.sample import Sampling, sampled_files
from trainer.records import RGB, Floats, Prompt
from trainer.run import fingerprint_of

KEPT_SETS = 64  # sets of the base's pictures in the cache, some 26 pictures each; the oldest go first


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

    `folder` holds one folder a set, named by the hash of all that decides the pictures' bits.
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
        for old in sorted(self.folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime)[:-KEPT_SETS]:
            shutil.rmtree(old, ignore_errors=True)

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
