"""What prepare needs of the recipe, and the models that it looks with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.faces.attributes import AttributeReader
from trainer.faces.base import Detector, Embedder
from trainer.faces.masks import Masker
from trainer.prepare.buckets import shapes_of
from trainer.prepare.captions import Captioning
from trainer.prepare.framing import Framings
from trainer.prepare.quality import Limits
from trainer.records import Shape


@dataclass(frozen=True, slots=True)
class Settings:
    """What prepare needs of the recipe, flat; meanings and units as in `trainer.sections.PrepareSection`."""

    limits: Limits
    size_px: int
    trigger: str
    class_word: str
    same_person: float
    burst: float
    select_share: float
    report_share: float
    min_photos: int
    max_pixels: int
    captioner: str = "attributes"
    captioner_path: str | None = None
    captioner_revision: str | None = None
    identity_words: str = "refuse"
    subject: str = ""  # the name, which captions should not have
    people: bool = True  # the captions are of somebody
    seal_all: bool = False  # nothing will be fitted: every usable photo is for the score
    reference: Path | None = None  # a photo of the person, to tell whose album it is
    framings: tuple[str, ...] = ("face",)
    max_upscale: float | None = None
    max_aspect: float = 1.0
    step_px: int = 1  # what the sides of the base's pictures are multiples of
    keep_burst: str = "all"  # or `best`
    landmarks: bool = False  # whether the samples say where they are
    mask: str = "box"  # as `trainer.sections.FitSection` has it

    def captioning(self) -> Captioning:
        """What of this concerns the captions."""
        return Captioning(**{name: getattr(self, name) for name in Captioning.__slots__})

    def framing(self) -> Framings:
        """What of this concerns the framings. Where nothing is fitted, none is asked of a photo."""
        if self.seal_all:
            return Framings()
        return Framings(self.framings, self.size_px, self.max_upscale, self.shapes)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The buckets, the square among them; empty where samples are squares."""
        shapes = shapes_of(self.size_px, self.step_px, self.max_aspect)
        return shapes if len(shapes) > 1 else ()


@dataclass(frozen=True, slots=True)
class Eyes:
    """The face models at work; the masker only where the recipe asks for masks."""

    detector: Detector
    gate: Embedder
    attributes: AttributeReader
    masker: Masker | None = None
