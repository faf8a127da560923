"""evaluate for a style or a brand: what can be said without a face, and no likeness."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.bases.base import Base
from trainer.bases.sampling import read_pictures, sample_prompts
from trainer.console import Console
from trainer.evaluate import probe, scorecard, unsealed
from trainer.evaluate.clip import ClipScorer
from trainer.evaluate.compare import COSINES
from trainer.evaluate.copying import any_excess, copying_excess, nearest
from trainer.evaluate.gallery import BasePictures, Gallery
from trainer.evaluate.judge import Seen
from trainer.evaluate.nulls import why_null
from trainer.evaluate.prompts import scene_prompts
from trainer.evaluate.report import Shown, write_report
from trainer.evaluate.sample import write_first_batch
from trainer.evaluate.scorecard import Reals
from trainer.evaluate.sealed import SIDE_PX, thumbnails
from trainer.evaluate.settings import Photos, Settings
from trainer.evaluate.verdict import ENOUGH_PHOTOS, picture_doubts
from trainer.faces.align import crop_square
from trainer.kinds import Kind
from trainer.pictures import open_picture
from trainer.records import RGB, Checkpoint, Floats, Prompt
from trainer.run import write_json

NOBODY = {"name": "none", "sha256": ""}  # in the place of judge and gate
NO_SCORER = "none"
SIDE = 64  # pixels of the framed photos that are compared


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pictures by their pixels: (n, d) unit vectors of each and of its mirror image, which the training sees too."""

    vectors: Floats
    mirrored: Floats

    def cosines(self, others: Floats) -> Floats:
        """(n, m) correlations of the 32 px gray pixels with (m, d) others, of whichever view is nearer."""
        nearer: Floats = np.maximum(self.vectors @ others.T, self.mirrored @ others.T)
        return nearer


@dataclass(frozen=True, slots=True)
class SceneEvaluator:
    """Samples the last checkpoint and the base, and measures both; `photos` are framed as `prepare` did."""

    base: Base
    settings: Settings
    clip: ClipScorer | None
    photos: Photos
    kind: Kind
    folder: Path
    console: Console

    def gallery(self, tag: str, label: str, prompts: Sequence[Prompt]) -> Gallery:
        """The pictures of these prompts, which nobody looks for faces in."""
        s = self.settings
        seeds = range(s.seed, s.seed + s.seeds)
        wanted = self.base, prompts, seeds, s.sampling, self.folder / "samples" / tag
        kept = BasePictures(s.base_pictures)
        if tag == "base":
            kept.take(*wanted)
        made = sample_prompts(*wanted, self.console, label)
        if tag == "base" and made == len(prompts) * len(seeds):
            kept.keep(*wanted)
        pictures = read_pictures(self.folder / "samples" / tag, prompts, seeds)
        count = len(prompts) * len(seeds)
        return Gallery(prompts, pictures, Seen(np.zeros((count, 0), np.float32), (None,) * count))

    def scores(self, gallery: Gallery) -> list[float | None]:
        """CLIP's, where the recipe names one; the attribute probe only knows faces."""
        if self.clip is None:
            return [None] * len(gallery.prompts)
        who, word = f"{self.settings.trigger} {self.settings.class_word}", self.settings.class_word
        return self.clip.scores([p.text.replace(who, word) for p in gallery.prompts], gallery.pictures)

    def copying(self, gallery: Gallery) -> dict[str, float | None]:
        """As for a person, by pixels: only pictures that are nearly a photo are told."""
        split = self.photos.split
        if not split.fit or not split.report:
            return dict.fromkeys(("to_fit_photos", "excess", "any_excess"))
        pictures = pixels(gallery.flat())
        fitted, sealed = (pixels(self._framed(names)).vectors for names in (split.fit, split.report))
        photos = np.concatenate([sealed, fitted])
        return {
            "to_fit_photos": nearest(pictures.cosines(fitted)),
            "excess": copying_excess(pictures, fitted, sealed, split.fit, split.groups),
            "any_excess": any_excess(pictures, photos, split.report + split.fit, split.groups),
        }

    def _framed(self, names: Sequence[str]) -> list[RGB]:
        """The photos of these names in the square that was learned from."""
        opened = ((name, open_picture(self.photos.paths[name], self.settings.max_pixels)) for name in names)
        return [crop_square(picture.rgb_u8, *self.photos.framed[name].frame, SIDE) for name, picture in opened]


def pixels(pictures: Sequence[RGB]) -> Pixels:
    """What is compared of (height, width, 3) uint8 pictures; see `trainer.evaluate.sealed.thumbnails`."""
    views = [list(pictures), [picture[:, ::-1].copy() for picture in pictures]]
    vectors, mirrored = ((thumbnails(view) / SIDE_PX).astype(np.float32) for view in views)
    return Pixels(vectors, mirrored)


def evaluate_scenes(
    evaluator: SceneEvaluator, checkpoints: Sequence[Checkpoint], head: dict[str, Any], cost: dict[str, Any]
) -> dict[str, Any]:
    """Write scorecard.json, report.html and samples/ without a likeness; returns the stage's facts.

    The last checkpoint is the one to export: nothing here could choose. See `trainer.evaluate.stage.evaluate`.
    """
    started, chosen, s = time.monotonic(), checkpoints[-1], evaluator.settings
    prompts = scene_prompts(evaluator.kind.name, evaluator.base.prompt_set, f"{s.trigger} {s.class_word}")
    evaluator.base.use_adapter(chosen.adapter, folded=True)
    adapter = evaluator.gallery("adapter", "with the adapter", prompts)
    write_first_batch(evaluator.folder, prompts, range(s.seed, s.seed + s.seeds), s.sampling)
    evaluator.base.use_adapter(None)
    base = evaluator.gallery("base", "base alone", prompts)
    split = evaluator.photos.split
    card = {
        "schema": 1,
        **head,
        "judge": NOBODY,
        "gate": NOBODY,
        "sampling": {"seeds": s.seeds, "steps": s.sampling.steps, "guidance": s.sampling.guidance},
        "photos": {"fit": len(split.fit), "select": len(split.select), "report": len(split.report)},
        **sections(evaluator, adapter, base),
        "checkpoints": [],
    }
    card["cost"] = cost | {"total_s": round(cost["total_s"] + time.monotonic() - started, 2)}
    card["verdict"], card["reasons"] = "unmeasurable", reasons(card, evaluator.kind, s.copying_limit)
    card["advice"] = advice(card)
    card["nulls"] = why_null(card, evaluator.kind.faceless)
    write_json(evaluator.folder / "scorecard.json", card)
    asked = {"prompts": [prompt.text for prompt in prompts], "seeds": list(range(s.seed, s.seed + s.seeds))}
    write_json(evaluator.folder / COSINES, asked | {"photos": [], "cosines": []})  # `trainer compare` reads it
    nobody = Reals(split, (), *(np.zeros((0, 0), np.float32),) * 2, None)
    write_report(evaluator.folder / "report.html", card, Shown([], [], adapter, base, nobody), s.trigger)
    return {"chosen_step": chosen.step, "chosen_strength": 1.0, "of_ceiling": None, "verdict": card["verdict"]}


def sections(evaluator: SceneEvaluator, adapter: Gallery, base: Gallery) -> dict[str, Any]:
    """The scorecard's sections: what faces tell is null, and what pictures alone tell is measured."""
    scores, base_scores = evaluator.scores(adapter), evaluator.scores(base)
    said = unsealed.likeness(adapter, scores)
    said["leak"]["beside_reason"] = evaluator.kind.faceless
    for row in said["by_prompt"]:
        row["detected"] = None
    return {
        **said,
        "copying": evaluator.copying(adapter),
        "detection_rate": None,
        "prompt": scorecard.prompt(NO_SCORER if evaluator.clip is None else evaluator.clip.name, scores, base_scores),
        "diversity": scorecard.compared(probe.diversity(adapter.pictures), probe.diversity(base.pictures)),
        "detail": scorecard.compared(None, None),
        "seal": {"broken": 0},
    }


def reasons(card: dict[str, Any], kind: Kind, copying_limit: float) -> list[str]:
    """Why there is no likeness, then what is doubtful about the pictures."""
    said = [f"{kind.faceless}, and nothing here measures how like it the pictures are: look at them"]
    excess = card["copying"]["excess"]
    if excess is not None and excess > copying_limit:
        said.append(f"nearer to the pictures it was fitted on than a new one is, by {excess:.2f} in their pixels")
    if card["prompt"]["adapter"] is None:
        said.append("whether the pictures show what was asked for is not scored: set evaluate.clip")
    return said + picture_doubts(card)


def advice(card: dict[str, Any]) -> list[str]:
    """What to do next."""
    if card["photos"]["fit"] and card["photos"]["fit"] < ENOUGH_PHOTOS:
        return [f"add pictures: {card['photos']['fit']} were left to fit on, {ENOUGH_PHOTOS} or more serve better"]
    return []
