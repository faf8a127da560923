"""The stages in order: what each depends on, what is skipped, what is resumed."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.album import CACHE, LOOKS, Album, read_album
from trainer.console import Console
from trainer.errors import GateMissed, IntegrityError, PhotosError, UsageError
from trainer.recipe import Layered, Recipe, load_recipe
from trainer.records import RGB, Checkpoint
from trainer.run import Run, Stage, exclusive, fingerprint_of, open_run, saying_disk_full, sha256_of
from trainer.subject import Subject, find_subject
from trainer.weights import WEIGHTS, cache_folder, fetch

if TYPE_CHECKING:
    from trainer.bases.base import Base
    from trainer.faces.base import Embedder
    from trainer.fit.settings import Settings

PREPARE, FIT, EVALUATE, EXPORT = STAGES = ("1_prepare", "2_fit", "3_evaluate", "4_export")
MIN_SCORED_PHOTOS = 3  # fewer give no ceiling worth the name
PACKAGES = ("torch", "diffusers", "peft", "accelerate", "transformers", "onnxruntime", "opencv-python", "numpy")


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """Name, folder, hash and picture size of the base."""

    name: str
    folder: str
    sha256: str
    size_px: int


@dataclass
class Pipeline:
    """One subject, one recipe, one run folder. Heavy libraries are imported by the stage that needs them."""

    subject: Subject
    layered: Layered
    runs: Path
    console: Console
    fresh: bool = False
    adapter: Path | None = None
    """Made by any tool: it is scored on all usable photos, and nothing is fitted or exported."""
    reference: Path | None = None
    """A photo of the person that tells whose album it is; it may lie anywhere and is only read."""
    reference_sha256: str | None = None
    reused: list[str] = field(default_factory=list)
    photo_hashes: dict[str, str] = field(default_factory=dict)
    caption_hashes: dict[str, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The checked recipe."""
        return self.layered.recipe

    def run(self, until: str = EXPORT) -> dict[str, Any]:
        """Run every stage up to `until`, skipping what is there; returns the summary.

        Raises PhotosError, MissingPartError or IntegrityError; see `trainer.errors`. `check_gate` reads the summary.
        """
        folder = self.runs / self.subject.name
        self.reference_sha256 = _hash_of_reference(self.reference)
        works = {PREPARE: self._prepare, FIT: self._fit, EVALUATE: self._evaluate, EXPORT: self._export}
        if self.adapter is not None:
            if not self.adapter.is_file():
                raise UsageError(f"{self.adapter}: no such file", "give the path of a .safetensors adapter")
            self._check_adapter(self.adapter)
            works = {PREPARE: self._prepare, EVALUATE: self._evaluate}
        with saying_disk_full(folder):  # before the folder is made: a place without photos leaves nothing behind
            captions = self.adapter is None and self.recipe.prepare.captioner == "sidecar"
            album = read_album(self.subject.photos, folder / CACHE, captions)
        with saying_disk_full(folder), exclusive(folder):
            started = time.monotonic()
            if self.subject.consent() is None:
                self.console.say("no consent.toml beside the photos: train only a person who has agreed to it")
            self._bring_weights()
            self.photo_hashes = {photo.name: photo.sha256 for photo in album.photos}
            self.caption_hashes = {photo: text.sha256 for photo, text in album.captions.items()}
            run = self._open(folder)
            stages: dict[str, Stage] = {}  # by name, in order
            for name, work in works.items():
                stages[name] = work(run, album, stages)
                if name == PREPARE:
                    self._lock_split(run, stages[PREPARE])
                if name == until:
                    break
            run.event("done", seconds=round(time.monotonic() - started, 2))
            return self._summary(run, stages, time.monotonic() - started)

    @staticmethod
    def _check_adapter(file: Path) -> None:
        """Refuse a file that is no whole LoRA or DoRA before any photo is looked at."""
        from trainer.adapter import read_adapter
        from trainer.layouts.layers import read_layers

        read_layers(file, *read_adapter(file))

    @cached_property
    def adapter_sha256(self) -> str | None:
        """Hash of the adapter made elsewhere."""
        return None if self.adapter is None else sha256_of(self.adapter)

    @cached_property
    def captioner_sha256(self) -> str | None:
        """Hash of a captioner's folder; the recipe itself pins one of the hub."""
        from trainer.bases.files import folder_sha256

        folder = self.recipe.prepare.captioner_path
        return folder_sha256(Path(folder)) if folder is not None and Path(folder).is_dir() else None

    @cached_property
    def base(self) -> BaseFacts:
        """What the fingerprints and the scorecard need of the base; the model itself is loaded where it works."""
        base = self._load_base(self.recipe.fit.precision)
        return BaseFacts(base.name, base.folder, base.sha256, base.size_px)

    def _load_base(self, precision: str) -> Base:
        from trainer.bases.base import get_base, resolve_precision

        chosen = self.recipe.base
        with self.console.progress(f"loading {chosen.name}", 1) as tick:
            base = get_base(**chosen.model_dump(), precision=resolve_precision(precision))
            tick()
        return base

    def _bring_weights(self) -> None:
        missing = [file for file in WEIGHTS if not (cache_folder() / file).is_file()]
        if missing:
            self.console.say(f"bringing {len(missing)} face model files (56 MB, once) into {cache_folder()}")
        with saying_disk_full(cache_folder()):
            fetch(cache_folder())

    def _open(self, folder: Path) -> Run:
        lock = {
            "schema": 1,
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_sha256": self.recipe.sha256(),
            "photos": sorted(self.photo_hashes.values()),
            "weights": {weight.file: weight.sha256 for weight in WEIGHTS.values()},
            "base_sha256": self.base.sha256,
            "versions": {name: importlib.metadata.version(name) for name in ("likeness-trainer", *PACKAGES)},
            "consent": self.subject.consent(),
        }
        if self.caption_hashes:
            lock["captions"] = sorted(self.caption_hashes.values())
        if self.captioner_sha256 is not None:
            lock["captioner_sha256"] = self.captioner_sha256
        if self.adapter is not None:
            lock["adapter_sha256"] = self.adapter_sha256
        if self.reference is not None:
            lock["reference_sha256"] = self.reference_sha256
        if self.recipe.fit.warm_start is not None:
            lock["warm_start_sha256"] = sha256_of(Path(self.recipe.fit.warm_start))
        run = open_run(folder, self.recipe.name, lock)
        if self.fresh:
            for name in STAGES:  # finished stages stay until their successors are whole
                shutil.rmtree(run.folder / f".{name}.part", ignore_errors=True)
            shutil.rmtree(folder / CACHE / LOOKS, ignore_errors=True)
        run.event("opened", run=run.folder.name)
        return run

    def _lock_split(self, run: Run, prepared: Stage) -> None:
        """Add which photo, by hash, plays which role to the lock."""
        from trainer.prepare.stage import read_split

        split, hashes = read_split(prepared.folder), self.photo_hashes
        dealt = {"fit": split.fit, "select": split.select, "report": split.report}
        run.add_to_lock(split={role: sorted(hashes[name] for name in names) for role, names in dealt.items()})

    def _stage(self, run: Run, name: str, inputs: dict[str, Any], work: Callable[[Path], dict[str, Any]]) -> Stage:
        """Reuse the finished stage with these inputs, else do the work in its part folder and put it in place."""
        fingerprint = fingerprint_of(stage=name, inputs=inputs)
        done = None if self.fresh else run.finished(name, fingerprint)
        if done:
            self.reused.append(name)
            run.event("reused", stage=name)
            return done
        part = run.part(name, fingerprint)
        run.event("started", stage=name)
        started = time.monotonic()
        try:
            facts = work(part)
        except PhotosError:
            shutil.rmtree(part)
            run.event("refused", stage=name)
            raise
        seconds = time.monotonic() - started
        run.event("finished", stage=name, seconds=round(seconds, 2), **facts)
        return run.finish(name, fingerprint, seconds, facts)

    def _prepare(self, run: Run, album: Album, stages: dict[str, Stage]) -> Stage:
        from trainer.faces.attributes import AttributeReader
        from trainer.faces.base import get_detector
        from trainer.prepare import stage
        from trainer.prepare.quality import Limits

        p = self.recipe.prepare
        inputs = {
            "version": stage.VERSION,
            "photos": self.photo_hashes,
            "refused": [asdict(one) for one in album.refused],
            "prepare": p.model_dump(mode="json"),
            "gate": self.recipe.faces.gate,
            "size_px": self.base.size_px,
            "seal_all": self.adapter is not None,
            "reference": self.reference_sha256,
            "captions": self.caption_hashes,
            "captioner": self.captioner_sha256,
            "subject": self.subject.name,
        }
        settings = stage.Settings(
            limits=Limits(**{name: getattr(p, name) for name in Limits.__slots__}),
            size_px=self.base.size_px,
            reference=self.reference,
            subject=self.subject.name,
            **{name: getattr(p, name) for name in stage.Settings.__slots__ if hasattr(p, name)},
        )
        if self.adapter is not None:
            settings = replace(settings, seal_all=True, min_photos=MIN_SCORED_PHOTOS)

        def work(part: Path) -> dict[str, Any]:
            weights = cache_folder()
            eyes = stage.Eyes(get_detector(weights), self._embedder(self.recipe.faces.gate), AttributeReader(weights))
            return stage.prepare(album, settings, eyes, part, run.folder.parent / CACHE, self.console)

        return self._stage(run, PREPARE, inputs, work)

    def _fit(self, run: Run, album: Album, stages: dict[str, Stage]) -> Stage:
        from trainer.fit import stage

        f = self.recipe.fit
        inputs = {
            "version": stage.VERSION,
            "prepare": stages[PREPARE].fingerprint,
            "fit": f.model_dump(mode="json"),
            "base": self.base.sha256,
        }
        if f.warm_start is not None:
            inputs["warm_start"] = sha256_of(Path(f.warm_start))
        settings = fit_settings(self.recipe)

        def work(part: Path) -> dict[str, Any]:
            import torch

            base = self._load_base(f.precision)
            # Sums that several threads share out are rounded otherwise by another number of them.
            threads = {"threads": torch.get_num_threads()}
            return stage.fit(stages[PREPARE].folder, base, settings, part, self.console) | threads

        fitted = self._stage(run, FIT, inputs, work)
        run.add_to_lock(threads=fitted.facts.get("threads"))
        return fitted

    def _evaluate(self, run: Run, album: Album, stages: dict[str, Stage]) -> Stage:
        from trainer.evaluate import stage
        from trainer.fit.checkpoint import find_checkpoints

        inputs = {
            "version": stage.VERSION,
            "prepare": stages[PREPARE].fingerprint,
            "fit": stages[FIT].fingerprint if self.adapter is None else self.adapter_sha256,
            "evaluate": self.recipe.evaluate.model_dump(mode="json", exclude={"gate"}),
            "faces": self.recipe.faces.model_dump(mode="json"),
            "recipe": [self.recipe.name, self.recipe.sha256()],  # the scorecard names it
        }

        def work(part: Path) -> dict[str, Any]:
            evaluator = self._evaluator(stages[PREPARE].folder, album, part)
            said = self._card_head(), _cost(stages), stages[PREPARE].facts["doubts"]
            if self.adapter is not None:
                return stage.evaluate(evaluator, [Checkpoint(0, self.adapter)], *said)
            checkpoints = find_checkpoints(stages[FIT].folder)
            if not checkpoints:
                raise IntegrityError(f"{stages[FIT].folder} holds no checkpoint", "run again with --fresh")
            return stage.evaluate(evaluator, checkpoints, *said)

        return self._stage(run, EVALUATE, inputs, work)

    def _evaluator(self, prepared: Path, album: Album, part: Path) -> Any:
        from trainer.bases.base import resolve_precision
        from trainer.evaluate import stage
        from trainer.evaluate.clip import ClipScorer
        from trainer.evaluate.sample import Sampling
        from trainer.faces.attributes import AttributeReader
        from trainer.faces.base import get_detector
        from trainer.prepare.stage import read_framed, read_split

        e, faces, weights = self.recipe.evaluate, self.recipe.faces, cache_folder()
        settings = stage.Settings(
            trigger=self.recipe.prepare.trigger,
            class_word=self.recipe.prepare.class_word,
            seeds=e.seeds,
            select_prompts=e.select_prompts,
            sampling=Sampling(e.sampling_steps, e.guidance, e.batch_size, resolve_precision(e.precision)),
            false_accept_rate=e.false_accept_rate,
            bootstrap=e.bootstrap,
            copying_limit=e.copying_limit,
            gate_engine=faces.gate,
            judge_engine=faces.judge,
            max_pixels=self.recipe.prepare.max_pixels,
            seed=e.seed,
            choose=e.choose,
            base_pictures=weights / "base_pictures",
        )
        eyes = stage.Eyes(
            get_detector(weights),
            self._embedder(faces.gate),
            self._embedder(faces.judge),
            AttributeReader(weights),
            None if e.clip is None else ClipScorer(e.clip),
        )
        real = stage.Photos(album.paths(), read_framed(prepared), read_split(prepared), prepared / "images")
        return stage.Evaluator(self._load_base(e.precision), settings, eyes, real, part, self.console)

    def _embedder(self, engine: str) -> Embedder:
        from trainer.faces.base import get_embedder

        faces = self.recipe.faces
        return get_embedder(engine, cache_folder(), faces.insightface_pack, faces.insightface_terms_accepted)

    def _export(self, run: Run, album: Album, stages: dict[str, Stage]) -> Stage:
        from trainer.export import stage
        from trainer.fit.checkpoint import find_checkpoints

        inputs = {
            "version": stage.VERSION,
            "evaluate": stages[EVALUATE].fingerprint,
            "export": self.recipe.export.model_dump(mode="json"),
        }
        step = stages[EVALUATE].facts["chosen_step"]
        prepare, chosen, fitted = self.recipe.prepare, self.recipe.export, self.recipe.fit
        rank = fitted.rank if fitted.init == "gaussian" else 2 * fitted.rank  # see `fit.lora.lora_tensors`
        settings = stage.Settings(
            self.subject.name,
            prepare.trigger,
            prepare.class_word,
            rank,
            chosen.dtype,
            chosen.kohya,
            chosen.licence,
        )

        def work(part: Path) -> dict[str, Any]:
            checkpoint = next(c for c in find_checkpoints(stages[FIT].folder) if c.step == step)
            base = self._load_base(self.recipe.evaluate.precision)
            judge = partial(self._likeness, stages[PREPARE].folder, album)
            return stage.export(checkpoint, base, stages[EVALUATE].folder, settings, judge, part)

        return self._stage(run, EXPORT, inputs, work)

    def _likeness(self, prepared: Path, album: Album, pictures: Sequence[RGB]) -> list[float]:
        """Of each picture to the sealed photos, as the judge sees it."""
        from trainer.evaluate.judge import likeness
        from trainer.faces.base import get_detector
        from trainer.prepare.stage import read_framed, read_split

        files = {name: album.paths()[name] for name in read_split(prepared).report}
        eyes = get_detector(cache_folder()), self._embedder(self.recipe.faces.judge)
        return likeness(pictures, files, read_framed(prepared), self.recipe.prepare.max_pixels, *eyes)

    def _card_head(self) -> dict[str, Any]:
        return {
            "subject": self.subject.name,
            "recipe": {"name": self.recipe.name, "sha256": self.recipe.sha256()},
            "base": {"name": self.base.name, "sha256": self.base.sha256},
        }

    def _summary(self, run: Run, stages: dict[str, Stage], seconds: float) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "run": str(run.folder),
            "seconds": round(seconds, 2),
            "reused": self.reused,
            "stages": {name: {"seconds": stage.seconds, **stage.facts} for name, stage in stages.items()},
        }
        if EXPORT in stages:
            summary["adapter"] = str(stages[EXPORT].folder / f"{self.subject.name}.safetensors")
            summary["base_folder"] = self.base.folder
        if EVALUATE in stages:
            summary["scorecard"] = str(stages[EVALUATE].folder / "scorecard.json")
        return summary


def _hash_of_reference(reference: Path | None) -> str | None:
    """Raises UsageError where it cannot be read."""
    try:
        return None if reference is None else sha256_of(reference)
    except OSError as error:
        hint = "pass the path of a photo of the person as --reference"
        raise UsageError(f"{reference}: cannot be read: {error.strerror}", hint) from None


def fit_settings(recipe: Recipe) -> Settings:
    """What fit needs of the recipe, flat."""
    from trainer.fit.settings import Settings

    values = {name: getattr(recipe.fit, name) for name in Settings.__slots__ if name != "trigger"}
    return Settings(recipe.prepare.trigger, **values)


def check_gate(summary: dict[str, Any], gate: float) -> None:
    """Raises GateMissed when a gate is set and the likeness is below it or cannot be measured."""
    of_ceiling = summary["stages"][EVALUATE]["of_ceiling"]
    if gate > 0 and (of_ceiling is None or of_ceiling < gate):
        raise GateMissed(
            f"of_ceiling is {of_ceiling if of_ceiling is None else round(of_ceiling, 3)}, the recipe asks for {gate:g}",
            "read report.html; more and more varied photos help most",
            summary,
        )


def _cost(stages: dict[str, Stage]) -> dict[str, Any]:
    if FIT not in stages:  # made elsewhere
        return {"fit_s": None, "total_s": round(stages[PREPARE].seconds, 2), "peak_bytes": None, "images_seen": None}
    fitted = stages[FIT].facts
    return {
        "fit_s": fitted["fit_s"],
        "total_s": round(stages[PREPARE].seconds + fitted["fit_s"], 2),
        "peak_bytes": fitted["peak_bytes"],
        "images_seen": fitted["images_seen"],
    }


def train(
    subject: str,
    photos: str | Path | None = None,
    recipe: str = "portrait-tiny",
    overrides: Sequence[str] = (),
    out: str | Path = "runs",
    reference: str | Path | None = None,
) -> dict[str, Any]:
    """Photos to a scored adapter, as `trainer train` does it; returns the summary with the paths of what was made.

    Raises a TrainerError whose `exit_status` and `hint` are those of the command.
    """
    found = find_subject(subject, Path.cwd(), Path(photos) if photos is not None else None)
    anchor = Path(reference) if reference is not None else None
    return Pipeline(found, load_recipe(recipe, overrides), Path(out), Console(), reference=anchor).run()
