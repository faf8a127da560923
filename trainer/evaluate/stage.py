"""evaluate: choose a checkpoint with the gate, then let the judge speak, once, about that one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.bases.base import Base
from trainer.console import Console
from trainer.errors import MissingPartError
from trainer.evaluate import calibrate, probe
from trainer.evaluate.compare import COSINES
from trainer.evaluate.copying import copying_excess, nearest
from trainer.evaluate.judge import Seen, look, read_photos
from trainer.evaluate.prompts import leak_prompts, paraphrases, report_prompts, select_prompts
from trainer.evaluate.report import Shown, write_report
from trainer.evaluate.sample import Sampling, picture_name, sample_prompts, sampling_jobs
from trainer.evaluate.select import Candidate, choose
from trainer.evaluate.verdict import advice, verdict
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import Detector, Embedder
from trainer.records import RGB, Checkpoint, Floats, Prompt, Split
from trainer.run import sha256_of, write_json

VERSION = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What evaluate needs of the recipe, flat; meanings and units as in `trainer.recipe.EvaluateSection`."""

    trigger: str
    class_word: str
    seeds: int
    select_prompts: int
    sampling: Sampling
    false_accept_rate: float
    bootstrap: int
    copying_limit: float
    judge_engine: str
    max_pixels: int


@dataclass(frozen=True, slots=True)
class Eyes:
    """The face models at work."""

    detector: Detector
    gate: Embedder
    judge: Embedder
    attributes: AttributeReader


@dataclass(frozen=True, slots=True)
class Photos:
    """Where the real photos lie, by name, and who plays which role."""

    paths: Mapping[str, Path]
    split: Split

    def files(self, names: Sequence[str]) -> list[Path]:
        """Their paths."""
        return [self.paths[name] for name in names]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures made for some prompts, and what the judge saw in them."""

    prompts: Sequence[Prompt]
    pictures: list[list[RGB]]
    seen: Seen

    def cosines(self, others: Floats) -> Floats:
        """(prompts, seeds, len(others)) cosines."""
        flat = self.seen.cosines(others)
        return flat.reshape(len(self.prompts), -1, flat.shape[1])

    def rows(self, style: bool) -> list[int]:
        """Indices of the style prompts, or of all others."""
        return [index for index, prompt in enumerate(self.prompts) if (prompt.group == "style") == style]


class Evaluator:
    """Samples and judges; every picture is kept below `folder` and never made twice."""

    def __init__(self, base: Base, settings: Settings, eyes: Eyes, photos: Photos, folder: Path, console: Console):
        self.base, self.settings, self.eyes, self.photos = base, settings, eyes, photos
        self.folder, self.console = folder, console
        self.who = f"{settings.trigger} {settings.class_word}"

    def select(self, checkpoints: Sequence[Checkpoint]) -> tuple[list[Candidate], Checkpoint]:
        """The gate's numbers for every checkpoint, on the select photos, and the one to export."""
        s, split = self.settings, self.photos.split
        if not split.select:  # an adapter made elsewhere: there is one, and it is judged as it is
            return [], checkpoints[0]
        prompts = select_prompts(report_prompts(self.base.prompt_set, self.who), s.select_prompts)
        sealed = self._look_at(split.select, self.eyes.gate).vectors
        fitted = self._look_at(split.fit, self.eyes.gate).vectors
        candidates = []
        for checkpoint in checkpoints:
            self.base.use_adapter(checkpoint.adapter)
            name = f"step {checkpoint.step}"
            gallery = self._gallery(prompts, f"select/{checkpoint.step:06d}", name, self.eyes.gate, seeds=1)
            to_sealed = gallery.seen.cosines(sealed)
            score = probe.mean_score(self._prompt_scores(gallery))
            candidates.append(
                Candidate(
                    checkpoint.step, float(to_sealed.mean()), 1.0 if score is None else score,
                    copying_excess(gallery.seen, fitted, sealed, split.fit, split.groups),
                )
            )  # fmt: skip
        chosen = choose(candidates, s.copying_limit)
        return candidates, next(c for c in checkpoints if c.step == chosen.step)

    def report(self, chosen: Checkpoint) -> tuple[dict[str, Any], Shown]:
        """The judge's part of the scorecard, and what the report shows."""
        galleries = self._galleries(chosen)
        split = self.photos.split
        real_pictures = read_photos(self.photos.files(split.report), self.settings.max_pixels)
        real = look(real_pictures, self.eyes.detector, self.eyes.judge)
        others = self._look_at(split.select + split.fit, self.eyes.judge)
        fitted = others.vectors[len(split.select) :]
        identity = self._identity(galleries, real, others)
        adapter, base = galleries["adapter"], galleries["base"]
        scores, base_scores = self._prompt_scores(adapter), self._prompt_scores(base)
        card = {
            "identity": identity,
            "detection_rate": float(adapter.seen.detected.mean()),
            "copying": _copying(adapter, fitted, real.vectors, split),
            "leak": _leak(galleries, real.vectors),
            "prompt": _prompt(scores, base_scores),
            "diversity": {"adapter": probe.diversity(adapter.pictures), "base": probe.diversity(base.pictures)},
            "sensitivity": {"paraphrase_std": float(galleries["paraphrase"].cosines(real.vectors).mean((1, 2)).std())},
            "by_prompt": _by_prompt(adapter, real.vectors, scores),
        }
        shown = Shown(
            real=real_pictures,
            real_faces=real.faces,
            adapter=adapter.pictures,
            base=base.pictures,
            per_picture=adapter.cosines(real.vectors).mean(2),
        )
        self._write_cosines(adapter, real)
        return card, shown

    def write_first_batch(self) -> None:
        """samples/adapter.json: all it takes to make the first batch of scored pictures again."""
        s = self.settings
        prompts = report_prompts(self.base.prompt_set, self.who)
        jobs = sampling_jobs(prompts, s.seeds)[: s.sampling.batch_size]
        (self.folder / "samples").mkdir(exist_ok=True)
        write_json(
            self.folder / "samples/adapter.json",
            {
                "files": [f"adapter/{picture_name(row, seed)}" for row, seed in jobs],
                "prompts": [prompts[row].text for row, _ in jobs],
                "seeds": [seed for _, seed in jobs],
                "steps": s.sampling.steps,
                "guidance": s.sampling.guidance,
            },
        )

    def _write_cosines(self, adapter: Gallery, real: Seen) -> None:
        """cosines.json: what `trainer compare` resamples, and by which pairs; photos by hash, no embedding."""
        plain = adapter.rows(style=False)
        write_json(
            self.folder / COSINES,
            {
                "prompts": [adapter.prompts[row].text for row in plain],
                "seeds": self.settings.seeds,
                "photos": [sha256_of(path) for path in self.photos.files(self.photos.split.report)],
                "cosines": adapter.cosines(real.vectors)[plain].round(5).tolist(),
            },
        )

    def _galleries(self, chosen: Checkpoint) -> dict[str, Gallery]:
        s, kind = self.settings, self.base.prompt_set
        prompts = report_prompts(kind, self.who)
        leaks = leak_prompts(kind, s.class_word)
        judge = self.eyes.judge
        self.base.use_adapter(chosen.adapter)
        galleries = {
            "adapter": self._gallery(prompts, "adapter", "with the adapter", judge, s.seeds),
            "leak": self._gallery(leaks, "leak", "without the trigger", judge, s.seeds),
            "paraphrase": self._gallery(paraphrases(self.who), "paraphrase", "in other words", judge, s.seeds),
        }
        self.base.use_adapter(None)
        galleries["base"] = self._gallery(prompts, "base", "base alone", judge, s.seeds)
        galleries["base_leak"] = self._gallery(leaks, "base_leak", "base, no trigger", judge, s.seeds)
        return galleries

    def _gallery(self, prompts: Sequence[Prompt], tag: str, label: str, embedder: Embedder, seeds: int) -> Gallery:
        pictures = sample_prompts(
            self.base, prompts, seeds, self.settings.sampling, self.folder / "samples" / tag, self.console, label
        )
        return Gallery(prompts, pictures, look((p for row in pictures for p in row), self.eyes.detector, embedder))

    def _identity(self, galleries: dict[str, Gallery], real: Seen, others: Seen) -> dict[str, Any]:
        s, split = self.settings, self.photos.split
        adapter = galleries["adapter"]
        plain = adapter.rows(style=False)
        cosines = adapter.cosines(real.vectors)[plain]
        mean = float(cosines.mean())
        names = split.report + split.select + split.fit
        everyone = np.concatenate([real.vectors, others.vectors]) if others.faces else real.vectors
        ceiling = calibrate.real_ceiling(real.cosines(everyone), split.report, names, split.groups)
        cohort = self._strangers(galleries) @ real.vectors.T
        floor, threshold = float(cohort.mean()), calibrate.threshold_at(cohort.mean(1), s.false_accept_rate)
        floor_base = float(galleries["base"].cosines(real.vectors)[plain].mean())
        style = adapter.cosines(real.vectors)[adapter.rows(style=True)]
        return {
            "mean": mean,
            "ci95": list(calibrate.bootstrap_interval(cosines, s.bootstrap)),
            "ceiling": ceiling,
            "floor_strangers": floor,
            "floor_base": floor_base,
            "of_ceiling": calibrate.of_ceiling(mean, floor, ceiling),
            "of_ceiling_base": calibrate.of_ceiling(floor_base, floor, ceiling),
            "pass_rate": float((cosines.mean(2) >= threshold).mean()),
            "threshold": threshold,
            "per_photo_std": float(cosines.mean((0, 1)).std()),
            "style_mean": float(style.mean()) if style.size else None,
        }

    def _strangers(self, galleries: dict[str, Gallery]) -> Floats:
        """The shipped cohort; for an embedder without one, the people whom the base alone made up."""
        shipped = calibrate.strangers(self.settings.judge_engine)
        if shipped is not None:
            return shipped
        seen = [galleries[name].seen for name in ("base", "base_leak")]
        found = [view.vectors[view.detected > 0] for view in seen if any(view.faces)]
        if not found:
            raise MissingPartError(
                f"no strangers are shipped for judge {self.settings.judge_engine} and the base made none",
                "use --set faces.judge=onnx",
            )
        return np.concatenate(found).astype(np.float32)

    def _prompt_scores(self, gallery: Gallery) -> list[float | None]:
        return probe.prompt_scores(gallery.prompts, gallery.pictures, gallery.seen, self.eyes.attributes)

    def _look_at(self, names: Sequence[str], embedder: Embedder) -> Seen:
        return look(read_photos(self.photos.files(names), self.settings.max_pixels), self.eyes.detector, embedder)


def evaluate(
    evaluator: Evaluator, checkpoints: Sequence[Checkpoint], head: dict[str, Any], cost: dict[str, Any]
) -> dict[str, Any]:
    """Write scorecard.json, report.html and samples/; returns the stage's facts.

    `head` holds the scorecard's subject, recipe and base; `cost` what prepare and fit took.
    """
    started = time.monotonic()
    candidates, chosen = evaluator.select(checkpoints)
    evaluator.write_first_batch()
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
        "checkpoints": [_checkpoint_row(candidate, chosen.step) for candidate in candidates],
        "cost": cost | {"total_s": round(cost["total_s"] + time.monotonic() - started, 2)},
    }
    card["verdict"], card["reasons"] = verdict(card, s.copying_limit)
    card["advice"] = advice(card, s.copying_limit)
    write_json(evaluator.folder / "scorecard.json", card)
    write_report(evaluator.folder / "report.html", card, shown)
    return {"chosen_step": chosen.step, "of_ceiling": card["identity"]["of_ceiling"], "verdict": card["verdict"]}


def _copying(gallery: Gallery, fitted: Floats, sealed: Floats, split: Split) -> dict[str, float | None]:
    if not split.fit:
        return {"to_fit_photos": None, "excess": None}
    excess = copying_excess(gallery.seen, fitted, sealed, split.fit, split.groups)
    return {"to_fit_photos": nearest(gallery.seen.cosines(fitted)), "excess": excess}


def _leak(galleries: dict[str, Gallery], real: Floats) -> dict[str, float]:
    on, off = (float(galleries[name].cosines(real).mean()) for name in ("leak", "base_leak"))
    return {"untriggered": on, "untriggered_base": off, "excess": on - off}


def _prompt(scores: Sequence[float | None], base_scores: Sequence[float | None]) -> dict[str, Any]:
    adapter, base = probe.mean_score(scores), probe.mean_score(base_scores)
    change = adapter - base if adapter is not None and base is not None else None
    return {"scorer": probe.NAME, "adapter": adapter, "base": base, "change": change}


def _by_prompt(gallery: Gallery, real: Floats, scores: Sequence[float | None]) -> list[dict[str, Any]]:
    identity = gallery.cosines(real).mean((1, 2))
    detected = gallery.seen.detected.reshape(len(gallery.prompts), -1).mean(1)
    return [
        {
            "prompt": prompt.text,
            "group": prompt.group,
            "identity": float(identity[row]),
            "detected": float(detected[row]),
            "prompt_score": scores[row],
        }
        for row, prompt in enumerate(gallery.prompts)
    ]


def _checkpoint_row(candidate: Candidate, chosen: int) -> dict[str, Any]:
    return {
        "step": candidate.step,
        "identity_select": candidate.identity,
        "prompt": candidate.prompt,
        "copying": candidate.copying,
        "selected": candidate.step == chosen,
    }
