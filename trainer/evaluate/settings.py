"""What evaluate is given: its choices, flat, the face models, and the real photos with their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.bases.sampling import Sampling
from trainer.evaluate.clip import ClipScorer
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import Detector, Embedder
from trainer.records import Framed, Split


@dataclass(frozen=True, slots=True)
class Settings:
    """What evaluate needs of the recipe, flat; meanings and units as in `trainer.sections.EvaluateSection`.

    Attributes:
        base_pictures: folder of what bases make without an adapter, kept across runs.
        checked: `samples` folder of the checks that were made during the fit; None where there were none.
    """

    trigger: str
    class_word: str
    seeds: int
    select_prompts: int
    sampling: Sampling
    false_accept_rate: float
    bootstrap: int
    copying_limit: float
    gate_engine: str
    judge_engine: str
    max_pixels: int
    seed: int
    choose: str
    strengths: tuple[float, ...]
    base_pictures: Path
    checked: Path | None = None


@dataclass(frozen=True, slots=True)
class Eyes:
    """The models at work."""

    detector: Detector
    gate: Embedder
    judge: Embedder
    attributes: AttributeReader
    clip: ClipScorer | None = None  # takes the place of the attributes in the prompt score


@dataclass(frozen=True, slots=True)
class Photos:
    """Where the real photos lie, by name, who plays which role, and what was made of those to fit on.

    Attributes:
        paths: of the photos.
        framed: where the person is in each usable one.
        samples: folder of the training samples' PNG files.
    """

    paths: Mapping[str, Path]
    framed: Mapping[str, Framed]
    split: Split
    samples: Path

    def files(self, names: Sequence[str]) -> list[Path]:
        """Their paths."""
        return [self.paths[name] for name in names]
