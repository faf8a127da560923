"""evaluate: choose a checkpoint with the gate, then let the judge speak, once, about that one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.bases.base import Base
from trainer.bases.sampling import read_pictures, sample_prompts
from trainer.console import Console
from trainer.errors import MissingPartError
from trainer.evaluate import calibrate, probe, scorecard, unsealed
from trainer.evaluate.compare import COSINES
from trainer.evaluate.detail import detail
from trainer.evaluate.gallery import BasePictures, Gallery, take_set
from trainer.evaluate.judge import Album, everyone, look, look_at_albums
from trainer.evaluate.nulls import why_null
from trainer.evaluate.prompts import beside_prompts, leak_prompts, paraphrases, report_prompts, select_prompts
from trainer.evaluate.report import Shown, write_report
from trainer.evaluate.sample import write_first_batch
from trainer.evaluate.scorecard import Reals, reals_of
from trainer.evaluate.sealed import sealed_among
from trainer.evaluate.select import Candidate, choose
from trainer.evaluate.settings import Eyes, Photos, Settings
from trainer.evaluate.sexes import line_of, sex_prompts
from trainer.evaluate.strength import checkpoint_name, weaker
from trainer.evaluate.verdict import DEAF, advice, verdict
from trainer.faces.base import Embedder
from trainer.records import Checkpoint, Floats, Prompt
from trainer.run import sha256_of, write_json

__all__ = ["VERSION", "Evaluator", "Eyes", "Photos", "Settings", "evaluate"]
VERSION = 9
STRENGTHS = "strengths"  # weakened copies of the last checkpoint, to look at


class Evaluator:
    """Samples and judges; every picture is kept below `folder` and never made twice."""

    def __init__(self, base: Base, settings: Settings, eyes: Eyes, photos: Photos, folder: Path, console: Console):
        self.base, self.settings, self.eyes, self.photos = base, settings, eyes, photos
        self.folder, self.console = folder, console
        self.who = f"{settings.trigger} {settings.class_word}"
        self.seeds = range(settings.seed, settings.seed + settings.seeds)
        self.scorer = probe.NAME if eyes.clip is None else eyes.clip.name

    def select(self, checkpoints: Sequence[Checkpoint]) -> tuple[list[Candidate], Checkpoint]:
        """The gate's numbers for every checkpoint, on the select photos, and the one to export."""
        s, split = self.settings, self.photos.split
        if not split.select:  # made elsewhere, or too few photos to seal any: nothing to choose by
            return [], checkpoints[-1]
        asked = list(checkpoints if s.choose == "best" else checkpoints[-1:])
        candidates = [self.candidate(checkpoint) for checkpoint in asked]
        chosen = choose(candidates, s.copying_limit)
        if s.choose == "best" and self._needs_less(chosen):
            asked += weaker(checkpoints[-1], s.strengths, self.folder / STRENGTHS)
            candidates += [self.candidate(checkpoint) for checkpoint in asked[len(candidates) :]]
            chosen = choose(candidates, s.copying_limit)
        return candidates, asked[candidates.index(chosen)]

    def _needs_less(self, candidate: Candidate) -> bool:
        """Whether it shows so little of what is asked for that less of it may be more; CLIPScore has no such scale."""
        return self.scorer == probe.NAME and candidate.prompt is not None and candidate.prompt < DEAF

    def report(self, chosen: Checkpoint) -> tuple[dict[str, Any], Shown]:
        """The judge's part of the scorecard, and what the report shows."""
        split = self.photos.split
        galleries = self._galleries(chosen)
        adapter, base = galleries["adapter"], galleries["base"]
        album = self._albums[self.eyes.judge.name]
        reals = reals_of(split, split.report, album, self._strangers(galleries))
        scores, base_scores = self._prompt_scores(adapter), self._prompt_scores(base)
        likeness = (
            self._likeness(galleries, chosen, reals, scores) if split.report else unsealed.likeness(adapter, scores)
        )
        card = {
            **likeness,
            "detection_rate": float(adapter.seen.detected.mean()),
            "prompt": scorecard.prompt(self.scorer, scores, base_scores),
            "diversity": scorecard.compared(probe.diversity(adapter.pictures), probe.diversity(base.pictures)),
            "detail": scorecard.compared(*(detail(g.flat(), g.seen.faces) for g in (adapter, base))),
            "seal": {"broken": len(self._sealed_in_the_samples(album))},
        }
        self._write_cosines(adapter, reals.sealed)
        portraits = album.framed(split.report), album.framed(split.fit)
        return card, Shown(*portraits, adapter, base, reals, galleries.get("leak"), galleries.get("base_leak"))

    def _likeness(
        self, galleries: dict[str, Gallery], chosen: Checkpoint, reals: Reals, scores: list[float | None]
    ) -> dict[str, Any]:
        """The sections that need sealed photos."""
        s, adapter, photos = self.settings, galleries["adapter"], reals.sealed
        return {
            "identity": scorecard.identity(adapter, galleries["base"], reals, s.false_accept_rate, s.bootstrap)
            | {"of_ceiling_gate": self._second_opinion(adapter)},
            "copying": scorecard.copying(adapter, reals),
            "leak": scorecard.leak(galleries, self._beside(chosen, photos), photos, self._sex_line),
            "sensitivity": {"paraphrase_std": float(galleries["paraphrase"].cosines(photos).mean((1, 2)).std())},
            "by_prompt": scorecard.by_prompt(adapter, photos, scores, s.bootstrap),
            "by_pose": scorecard.by_pose(adapter, photos),
        }

    def _second_opinion(self, adapter: Gallery) -> float | None:
        """The gate's own `of_ceiling` of the same pictures and photos: it chose by others."""
        split, gate = self.photos.split, self.eyes.gate
        reals = reals_of(split, split.report, self._albums[gate.name], calibrate.strangers(self.settings.gate_engine))
        seen = Gallery(adapter.prompts, adapter.pictures, look(adapter.flat(), self.eyes.detector, gate))
        return reals.of_ceiling(float(seen.cosines(reals.sealed)[adapter.rows(style=False)].mean()))

    def _strangers(self, galleries: dict[str, Gallery]) -> Floats | None:
        """The judge's shipped strangers, or where there are none the people whom the base makes up."""
        shipped = calibrate.strangers(self.settings.judge_engine)
        if shipped is not None or not self.photos.split.report:
            return shipped
        return people_made_up(galleries, self.settings.judge_engine)

    @cached_property
    def _sex_line(self) -> Floats | None:
        return line_of(self.settings.judge_engine)

    @cached_property
    def _select_reals(self) -> Reals:
        split = self.photos.split
        strangers = calibrate.strangers(self.settings.gate_engine)
        return reals_of(split, split.select, self._albums[self.eyes.gate.name], strangers)

    def candidate(self, checkpoint: Checkpoint) -> Candidate:
        """The gate's numbers, from one seed a prompt that the report does not use."""
        prompts = select_prompts(report_prompts(self.base.prompt_set, self.who), self.settings.select_prompts)
        self.base.use_adapter(checkpoint.adapter, folded=True)
        tag, seeds = select_tag(checkpoint), range(self.seeds.stop, self.seeds.stop + 1)
        if self.settings.checked is not None:
            take_set(self.settings.checked / tag, self.folder / "samples" / tag)
        gallery = self._gallery(
            prompts, tag, f"step {checkpoint_name(checkpoint.step, checkpoint.strength)}", self.eyes.gate, seeds
        )
        reals = self._select_reals
        identity = float(gallery.cosines(reals.sealed).mean())
        score = probe.mean_score(self._prompt_scores(gallery))
        copied = reals.copying(gallery.seen)
        of_ceiling = reals.of_ceiling(identity)
        return Candidate(checkpoint.step, identity, score, copied or 0.0, of_ceiling, checkpoint.strength)

    def _write_cosines(self, adapter: Gallery, photos: Floats) -> None:
        """cosines.json: what `trainer compare` resamples, and by which pairs; photos by hash, no embedding."""
        plain = adapter.rows(style=False)
        write_json(
            self.folder / COSINES,
            {
                "prompts": [adapter.prompts[row].text for row in plain],
                "seeds": list(self.seeds),
                "photos": [sha256_of(path) for path in self.photos.files(self.photos.split.report)],
                "cosines": adapter.cosines(photos)[plain].round(5).tolist(),
            },
        )

    def _galleries(self, chosen: Checkpoint) -> dict[str, Gallery]:
        """What the judge looks at; without sealed photos nothing that only a likeness is asked of."""
        kind, judge, sealed = self.base.prompt_set, self.eyes.judge, bool(self.photos.split.report)
        prompts, leaks = report_prompts(kind, self.who), leak_prompts(kind, self.settings.class_word)
        self.base.use_adapter(chosen.adapter, folded=True)
        galleries = {"adapter": self._gallery(prompts, "adapter", "with the adapter", judge, self.seeds)}
        if sealed:
            galleries["leak"] = self._gallery(leaks, "leak", "without the trigger", judge, self.seeds)
            others = paraphrases(self.who)
            galleries["paraphrase"] = self._gallery(others, "paraphrase", "in other words", judge, self.seeds)
        told = sealed and self._sex_line is not None
        if told:
            galleries["sexes"] = self._gallery(sex_prompts(), "sexes", "men and women", judge, self.seeds)
        self.base.use_adapter(None)
        galleries["base"] = self._base_gallery(prompts, "base", "base alone")
        if sealed:
            galleries["base_leak"] = self._base_gallery(leaks, "base_leak", "base, no trigger")
        if told:
            galleries["base_sexes"] = self._base_gallery(sex_prompts(), "base_sexes", "base, men and women")
        return galleries

    def _gallery(self, prompts: Sequence[Prompt], tag: str, label: str, embedder: Embedder, seeds: range) -> Gallery:
        folder = self.folder / "samples" / tag
        sample_prompts(self.base, prompts, seeds, self.settings.sampling, folder, self.console, label)
        pictures = read_pictures(folder, prompts, seeds)
        return Gallery(prompts, pictures, look((p for row in pictures for p in row), self.eyes.detector, embedder))

    def _base_gallery(self, prompts: Sequence[Prompt], tag: str, label: str) -> Gallery:
        """What the base makes without an adapter and the judge sees in it, from an earlier run where there was one."""
        wanted = self.base, prompts, self.seeds, self.settings.sampling, self.folder / "samples" / tag
        kept = BasePictures(self.settings.base_pictures)
        kept.take(*wanted)
        if sample_prompts(*wanted, self.console, label) == len(prompts) * len(self.seeds):
            kept.keep(*wanted)
        pictures = read_pictures(self.folder / "samples" / tag, prompts, self.seeds)
        return Gallery(prompts, pictures, kept.look(pictures, self.eyes.detector, self.eyes.judge))

    def _beside(self, chosen: Checkpoint, photos: Floats) -> scorecard.Beside | None:
        """Likeness of whoever stands beside the person, adapter on and off; None where there is nobody beside."""
        prompts = beside_prompts(self.base.prompt_set, self.who)
        if not prompts:
            return None
        means = []
        for tag, adapter in (("beside", chosen.adapter), ("base_beside", None)):
            self.base.use_adapter(adapter, folded=True)
            flat = self._gallery(prompts, tag, "somebody beside", self.eyes.judge, self.seeds).flat()
            means.append(scorecard.least_alike(everyone(flat, self.eyes.detector, self.eyes.judge), photos))
        on, off = means
        return on, off

    @cached_property
    def _albums(self) -> dict[str, Album]:
        """The real photos, each opened once, to the gate where any is sealed and to the judge where it reports."""
        split, eyes = self.photos.split, self.eyes
        files = {name: self.photos.paths[name] for name in split.select + split.report + split.fit}
        sealed, judged = bool(split.select or split.report), bool(split.report or not split.select)
        looking = [eyes.gate] * sealed + [eyes.judge] * judged
        albums = look_at_albums(files, self.photos.framed, self.settings.max_pixels, eyes.detector, looking)
        return {embedder.name: album for embedder, album in zip(looking, albums, strict=True)}

    def _sealed_in_the_samples(self, album: Album) -> list[int]:
        """Which sealed photos, by index, the training samples show; none, unless somebody broke the seal."""
        sealed = self.photos.split.select + self.photos.split.report
        samples = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(self.photos.samples.glob("*.png"))]
        seen = look(samples, self.eyes.detector, self.eyes.judge)
        return sealed_among(samples, seen, album.framed(sealed), album.of(sealed))

    def _prompt_scores(self, gallery: Gallery) -> list[float | None]:
        if self.eyes.clip is not None:
            word = self.settings.class_word  # nobody taught CLIP the trigger
            return self.eyes.clip.scores([p.text.replace(self.who, word) for p in gallery.prompts], gallery.pictures)
        return probe.prompt_scores(gallery.prompts, gallery.pictures, gallery.seen, self.eyes.attributes)


def evaluate(
    evaluator: Evaluator,
    checkpoints: Sequence[Checkpoint],
    head: dict[str, Any],
    cost: dict[str, Any],
    doubts: Sequence[str] = (),
    shows: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Write scorecard.json, report.html and samples/; returns the stage's facts.

    `head` holds the scorecard's subject, recipe and base; `cost` what prepare and fit took; `doubts` what prepare
    found unclear about who the person is; `shows` in how many fit photos it measured each attribute word.
    """
    started = time.monotonic()
    candidates, chosen = evaluator.select(checkpoints)
    asked = report_prompts(evaluator.base.prompt_set, evaluator.who)
    write_first_batch(evaluator.folder, asked, evaluator.seeds, evaluator.settings.sampling)
    judged, shown = evaluator.report(chosen)
    split, s = evaluator.photos.split, evaluator.settings
    card = {
        "schema": 1,
        **head,
        "judge": {"name": evaluator.eyes.judge.name, "sha256": evaluator.eyes.judge.sha256},
        "gate": {"name": evaluator.eyes.gate.name, "sha256": evaluator.eyes.gate.sha256},
        "sampling": {"seeds": s.seeds, "steps": s.sampling.steps, "guidance": s.sampling.guidance},
        "photos": {"fit": len(split.fit), "select": len(split.select), "report": len(split.report)},
        **judged,
        "checkpoints": [_checkpoint_row(candidate, chosen) for candidate in candidates],
        "cost": cost | {"total_s": round(cost["total_s"] + time.monotonic() - started, 2)},
    }
    card["verdict"], card["reasons"] = verdict(card, s.copying_limit)
    card["reasons"] += doubts
    card["advice"] = advice(card, s.copying_limit, shows or {})
    card["nulls"] = why_null(card)
    write_json(evaluator.folder / "scorecard.json", card)
    write_report(evaluator.folder / "report.html", card, shown, s.trigger)
    shutil.rmtree(evaluator.folder / STRENGTHS, ignore_errors=True)  # export makes the chosen one anew
    exported = {"chosen_step": chosen.step, "chosen_strength": chosen.strength}
    return exported | {"of_ceiling": card["identity"]["of_ceiling"], "verdict": card["verdict"]}


def select_tag(checkpoint: Checkpoint) -> str:
    """Where a checkpoint's pictures for the choice lie below `samples`."""
    weaker_by = "" if checkpoint.strength == 1.0 else f"-{checkpoint.strength:g}"
    return f"select/{checkpoint.step:06d}{weaker_by}"


def people_made_up(galleries: dict[str, Gallery], engine: str) -> Floats:
    """(n, d) the people whom the base alone made up: the floor of an embedder for which no strangers are shipped."""
    seen = [galleries[name].seen for name in ("base", "base_leak")]
    found = [view.vectors[view.detected > 0] for view in seen if any(view.faces)]
    if not found:
        raise MissingPartError(
            f"no strangers are shipped for judge {engine} and the base made none", "use --set faces.judge=onnx"
        )
    return np.concatenate(found).astype(np.float32)


def _checkpoint_row(candidate: Candidate, chosen: Checkpoint) -> dict[str, Any]:
    return {
        "step": candidate.step,
        "strength": candidate.strength,
        "identity_select": candidate.identity,
        "of_ceiling_select": candidate.of_ceiling,
        "prompt": candidate.prompt,
        "copying": candidate.copying,
        "selected": (candidate.step, candidate.strength) == (chosen.step, chosen.strength),
    }
