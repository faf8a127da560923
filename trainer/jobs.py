"""What each stage depends on and what it is given: flat values of the recipe, the stages before it, the models."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.album import Album
from trainer.console import Console
from trainer.errors import IntegrityError, UsageError
from trainer.kinds import KINDS, Kind
from trainer.processes import Processes, awaited, count
from trainer.recipe import Recipe
from trainer.records import RGB, Checkpoint
from trainer.run import Stage, sha256_of
from trainer.subject import Subject
from trainer.weights import WEIGHTS, cache_folder

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


@dataclass(frozen=True, slots=True)
class Job:
    """One stage of one run.

    Attributes:
        inputs: all that its result depends on; their fingerprint tells whether a finished stage still holds.
        work: makes the stage's files in an empty or interrupted folder and returns its facts.
    """

    inputs: dict[str, Any]
    work: Callable[[Path], dict[str, Any]]


@dataclass
class Jobs:
    """The jobs of one subject, recipe and album. Heavy libraries are imported by the stage that needs them."""

    subject: Subject
    recipe: Recipe
    console: Console
    album: Album
    cache: Path
    """Folder of what may be made anew: unpacked archives, looks at photos."""
    adapter: Path | None = None
    reference: Path | None = None
    processes: Processes = field(default_factory=Processes)

    def prepare(self, stages: Mapping[str, Stage]) -> Job:
        from trainer.faces.attributes import AttributeReader
        from trainer.faces.base import get_detector
        from trainer.prepare import scenes, stage
        from trainer.prepare.quality import Limits

        p = self.recipe.prepare
        inputs = {
            "version": stage.VERSION,
            "photos": self.photo_hashes,
            "refused": [asdict(one) for one in self.album.refused],
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
            if not self.kind.has_face:
                return scenes.prepare_scenes(self.album, settings, p.framing, part, self.console)
            weights = cache_folder()
            eyes = stage.Eyes(get_detector(weights), self._embedder(self.recipe.faces.gate), AttributeReader(weights))
            return stage.prepare(self.album, settings, eyes, part, self.cache, self.console)

        return Job(inputs, work)

    def fit(self, stages: Mapping[str, Stage]) -> Job:
        from trainer.fit import stage

        f = self.recipe.fit
        inputs = {
            "version": stage.VERSION,
            "prepare": stages[PREPARE].fingerprint,
            "fit": f.model_dump(mode="json", exclude={"trackers"}),
            "base": self.base.sha256,
        }
        if f.warm_start is not None:
            inputs["warm_start"] = sha256_of(Path(f.warm_start))
        if count() > 1:  # each takes its part of a larger batch
            inputs["processes"] = count()
        samples = stages[PREPARE].folder

        def work(part: Path) -> dict[str, Any]:
            import torch

            self.processes.call({"samples": str(samples), "folder": str(part)})
            # Sums that several threads share out are rounded otherwise by another number of them.
            threads = {"threads": torch.get_num_threads()}
            return _fit(self.recipe, samples, part, self.console) | threads

        return Job(inputs, work)

    def evaluate(self, stages: Mapping[str, Stage]) -> Job:
        from trainer.evaluate import scenes, stage
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
            if self.adapter is not None:
                checkpoints = [Checkpoint(0, self.adapter)]
            else:
                checkpoints = find_checkpoints(stages[FIT].folder)
            if not checkpoints:
                raise IntegrityError(f"{stages[FIT].folder} holds no checkpoint", "run again with --fresh")
            prepared, said = stages[PREPARE].folder, (self._card_head(), _cost(stages))
            if not self.kind.has_face:
                return scenes.evaluate_scenes(self._scene_evaluator(prepared, part), checkpoints, *said)
            return stage.evaluate(self._evaluator(prepared, part), checkpoints, *said, stages[PREPARE].facts["doubts"])

        return Job(inputs, work)

    def _evaluator(self, prepared: Path, part: Path) -> Any:
        from trainer.evaluate import stage
        from trainer.faces.attributes import AttributeReader
        from trainer.faces.base import get_detector

        faces, weights = self.recipe.faces, cache_folder()
        eyes = stage.Eyes(
            get_detector(weights),
            self._embedder(faces.gate),
            self._embedder(faces.judge),
            AttributeReader(weights),
            self._clip(),
        )
        base = self._load_base(self.recipe.evaluate.precision)
        return stage.Evaluator(base, self._scoring(), eyes, self._real(prepared), part, self.console)

    def _scene_evaluator(self, prepared: Path, part: Path) -> Any:
        from trainer.evaluate.scenes import SceneEvaluator

        base = self._load_base(self.recipe.evaluate.precision)
        models = base, self._scoring(), self._clip()
        return SceneEvaluator(*models, self._real(prepared), self.kind, part, self.console)

    def _clip(self) -> Any:
        from trainer.evaluate.clip import ClipScorer

        where = self.recipe.evaluate.clip
        return None if where is None else ClipScorer(where)

    def _real(self, prepared: Path) -> Any:
        from trainer.evaluate.settings import Photos
        from trainer.prepare.stage import read_framed, read_split

        return Photos(self.album.paths(), read_framed(prepared), read_split(prepared), prepared / "images")

    def _scoring(self) -> Any:
        from trainer.bases.base import resolve_precision
        from trainer.evaluate import stage
        from trainer.evaluate.sample import Sampling

        e, faces = self.recipe.evaluate, self.recipe.faces
        return stage.Settings(
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
            base_pictures=cache_folder() / "base_pictures",
        )

    def export(self, stages: Mapping[str, Stage]) -> Job:
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
            self.kind,
        )

        def work(part: Path) -> dict[str, Any]:
            checkpoint = next(c for c in find_checkpoints(stages[FIT].folder) if c.step == step)
            base = self._load_base(self.recipe.evaluate.precision)
            sealed = stages[PREPARE].facts["report"] and self.kind.has_face
            judge = partial(self._likeness, stages[PREPARE].folder) if sealed else None
            return stage.export(checkpoint, base, stages[EVALUATE].folder, settings, judge, part)

        return Job(inputs, work)

    def _likeness(self, prepared: Path, pictures: Sequence[RGB]) -> list[float]:
        """Of each picture to the sealed photos, as the judge sees it."""
        from trainer.evaluate.judge import likeness
        from trainer.faces.base import get_detector
        from trainer.prepare.stage import read_framed, read_split

        files = {name: self.album.paths()[name] for name in read_split(prepared).report}
        eyes = get_detector(cache_folder()), self._embedder(self.recipe.faces.judge)
        return likeness(pictures, files, read_framed(prepared), self.recipe.prepare.max_pixels, *eyes)

    def lock(self) -> dict[str, Any]:
        """All that decides the result, as lock.json holds it from the start."""
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
        if count() > 1:
            lock["processes"] = count()
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
        return lock

    @property
    def kind(self) -> Kind:
        """What is learned."""
        return KINDS[self.recipe.prepare.subject_kind]

    @cached_property
    def photo_hashes(self) -> dict[str, str]:
        """Hash of each photo, by name."""
        return {photo.name: photo.sha256 for photo in self.album.photos}

    @cached_property
    def caption_hashes(self) -> dict[str, str]:
        """Hash of each text beside a photo, by the photo's name."""
        return {photo: text.sha256 for photo, text in self.album.captions.items()}

    @cached_property
    def reference_sha256(self) -> str | None:
        """Hash of the reference photo."""
        return hash_of_reference(self.reference)

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
        return _load_base(self.recipe, precision, self.console)

    def _embedder(self, engine: str) -> Embedder:
        from trainer.faces.base import get_embedder

        faces = self.recipe.faces
        return get_embedder(engine, cache_folder(), faces.insightface_pack, faces.insightface_terms_accepted)

    def _card_head(self) -> dict[str, Any]:
        return {
            "subject": self.subject.name,
            "recipe": {"name": self.recipe.name, "sha256": self.recipe.sha256()},
            "base": {"name": self.base.name, "sha256": self.base.sha256},
        }


def hash_of_reference(reference: Path | None) -> str | None:
    """Raises UsageError where it cannot be read."""
    try:
        return None if reference is None else sha256_of(reference)
    except OSError as error:
        hint = "pass the path of a photo of the person as --reference"
        raise UsageError(f"{reference}: cannot be read: {error.strerror}", hint) from None


def take_part(recipe: Recipe, console: Console) -> None:
    """What every process of a command but the first does: wait for it, and take part in its fit where there is one."""
    task = awaited()
    if task is not None:
        _fit(recipe, Path(task["samples"]), Path(task["folder"]), console)


def _fit(recipe: Recipe, samples: Path, part: Path, console: Console) -> dict[str, Any]:
    from trainer.fit import stage

    base = _load_base(recipe, recipe.fit.precision, console)
    return stage.fit(samples, base, fit_settings(recipe), part, console)


def _load_base(recipe: Recipe, precision: str, console: Console) -> Base:
    from trainer.bases.base import get_base, resolve_precision

    chosen = recipe.base
    with console.progress(f"loading {chosen.name}", 1) as tick:
        base = get_base(**chosen.model_dump(), precision=resolve_precision(precision))
        tick()
    return base


def fit_settings(recipe: Recipe) -> Settings:
    """What fit needs of the recipe, flat."""
    from trainer.fit.settings import Settings

    values = {name: getattr(recipe.fit, name) for name in Settings.__slots__ if name != "trigger"}
    return Settings(recipe.prepare.trigger, **values)


def _cost(stages: Mapping[str, Stage]) -> dict[str, Any]:
    if FIT not in stages:  # made elsewhere
        return {"fit_s": None, "total_s": round(stages[PREPARE].seconds, 2), "peak_bytes": None, "images_seen": None}
    fitted = stages[FIT].facts
    return {
        "fit_s": fitted["fit_s"],
        "total_s": round(stages[PREPARE].seconds + fitted["fit_s"], 2),
        "peak_bytes": fitted["peak_bytes"],
        "images_seen": fitted["images_seen"],
    }
