"""What each stage depends on and what it is given: flat values of the recipe, the stages before it, the models."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.album import Album
from trainer.console import Console
from trainer.errors import IntegrityError, UsageError
from trainer.fingerprints import decides, decides_fit
from trainer.kinds import KINDS, Kind
from trainer.processes import Processes, awaited, count
from trainer.recipe import Recipe
from trainer.records import Checkpoint
from trainer.run import Stage, sha256_of
from trainer.scoring import CHECKS, Scoring, decides_checks, embedder_of, load_base
from trainer.subject import Subject
from trainer.taught import refuse_pupil, taught_by_gate, teacher_name, teacher_of
from trainer.weights import MASKS, WEIGHTS, cache_folder, needed

if TYPE_CHECKING:
    from trainer.bases.base import Base
    from trainer.fit.settings import Settings

PREPARE, FIT, EVALUATE, EXPORT = STAGES = ("1_prepare", "2_fit", "3_evaluate", "4_export")
OF_FIT = ("fit_s", "peak_bytes", "images_seen", "stopped_early")  # what the scorecard says of the cost
MIN_SCORED_PHOTOS = 3  # fewer give no ceiling worth the name
PACKAGES = ("torch", "diffusers", "peft", "accelerate", "transformers", "onnxruntime", "opencv-python", "numpy")


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """Name, folder, hash and picture size of the base, and the steps of that size."""

    name: str
    folder: str
    sha256: str
    size_px: int
    step_px: int


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
        from trainer.faces.masks import Masker
        from trainer.prepare import scenes, stage
        from trainer.prepare.quality import Limits

        p = self.recipe.prepare
        inputs = {
            "version": stage.VERSION,
            "photos": self.photo_hashes,
            "refused": [asdict(one) for one in self.album.refused],
            "prepare": decides(p, set()),
            "gate": self.recipe.faces.gate,
            "size_px": self.base.size_px,
            "seal_all": self.adapter is not None,
            "reference": self.reference_sha256,
            "captions": self.caption_hashes,
            "captioner": self.captioner_sha256,
            "subject": self.subject.name,
            "mask": self.mask,
        }
        if p.max_aspect > 1:
            inputs["step_px"] = self.base.step_px
        if self.taught:
            inputs["landmarks"] = True
        settings = stage.Settings(
            limits=Limits(**{name: getattr(p, name) for name in Limits.__slots__}),
            size_px=self.base.size_px,
            step_px=self.base.step_px,
            reference=self.reference,
            subject=self.subject.name,
            mask=self.mask,
            landmarks=self.taught,
            framings=tuple(p.framings),
            **{name: getattr(p, name) for name in stage.Settings.__slots__ if hasattr(p, name) and name != "framings"},
        )
        if self.adapter is not None:
            settings = replace(settings, seal_all=True, min_photos=MIN_SCORED_PHOTOS)

        if p.max_aspect > 1 and not settings.shapes:
            said = f"at {settings.size_px} px no other shape keeps to prepare.max_aspect={p.max_aspect:g}"
            self.console.say(f"{said}: samples are squares")

        def work(part: Path) -> dict[str, Any]:
            if not self.kind.has_face:
                return scenes.prepare_scenes(self.album, settings, p.framing, part, self.console)
            weights = cache_folder()
            masker = None if self.mask == "box" else Masker(weights)
            gate = embedder_of(self.recipe, self.recipe.faces.gate)
            eyes = stage.Eyes(get_detector(weights), gate, AttributeReader(weights), masker)
            return stage.prepare(self.album, settings, eyes, part, self.cache, self.console)

        return Job(inputs, work)

    def fit(self, stages: Mapping[str, Stage]) -> Job:
        from trainer.fit import stage

        f = self.recipe.fit
        inputs = {
            "version": stage.VERSION,
            "prepare": stages[PREPARE].fingerprint,
            "fit": decides_fit(f),
            "base": self.base.sha256,
        }
        if f.stop_after is not None:
            inputs["check"] = decides_checks(self.recipe)
        if self.recipe.base.quantize != "none":
            inputs["quantize"] = self.recipe.base.quantize
        if f.warm_start is not None:
            inputs["warm_start"] = sha256_of(Path(f.warm_start))
        if count() > 1:  # each takes its part of a larger batch
            inputs["processes"] = count()
        samples = stages[PREPARE].folder

        def work(part: Path) -> dict[str, Any]:
            import torch

            from trainer.bases.base import machine

            # Sums that several threads share out are rounded otherwise by another number of them, or by other kernels.
            rounding = {"threads": torch.get_num_threads(), "machine": machine()}
            if f.warm_start is not None:
                refuse_pupil(self.recipe, Path(f.warm_start))
            for doubt in taught_by_gate(self.recipe):
                self.console.say(doubt)
            self.processes.call({"samples": str(samples), "folder": str(part)})
            return _fit(self.recipe, samples, part, self.console, self._scoring.check(samples, part)) | rounding

        return Job(inputs, work)

    def evaluate(self, stages: Mapping[str, Stage]) -> Job:
        from trainer.evaluate import scenes, stage
        from trainer.fit.checkpoint import find_checkpoints
        from trainer.prepare.stage import read_split

        inputs = {
            "version": stage.VERSION,
            "prepare": stages[PREPARE].fingerprint,
            "fit": stages[FIT].fingerprint if self.adapter is None else self.adapter_sha256,
            "evaluate": self.recipe.evaluate.model_dump(mode="json", exclude={"gate"}),
            "faces": self.recipe.faces.model_dump(mode="json"),
            "recipe": [self.recipe.name, self.recipe.sha256()],  # the scorecard names it
        }

        def work(part: Path) -> dict[str, Any]:
            prepared = stages[PREPARE]
            if self.adapter is not None:
                refuse_pupil(self.recipe, self.adapter)
                checkpoints = [Checkpoint(0, self.adapter)]
            else:
                checkpoints = find_checkpoints(stages[FIT].folder)
            if not checkpoints:
                raise IntegrityError(f"{stages[FIT].folder} holds no checkpoint", "run again with --fresh")
            said = self._card_head(), _cost(stages)
            if not self.kind.has_face:
                evaluator = self._scoring.scene_evaluator(prepared.folder, part, self.kind)
                return scenes.evaluate_scenes(evaluator, checkpoints, *said)
            checked = stages[FIT].folder / CHECKS / "samples" if FIT in stages else None
            looked = self._scoring.evaluator(prepared.folder, part, read_split(prepared.folder), checked)
            doubts = [*prepared.facts["doubts"], *(taught_by_gate(self.recipe) if self.taught else [])]
            return stage.evaluate(looked, checkpoints, *said, doubts, prepared.facts["shows"])

        return Job(inputs, work)

    def export(self, stages: Mapping[str, Stage]) -> Job:
        from trainer.export import stage
        from trainer.fit.checkpoint import find_checkpoints

        inputs = {
            "version": stage.VERSION,
            "evaluate": stages[EVALUATE].fingerprint,
            "export": self.recipe.export.model_dump(mode="json"),
        }
        said = stages[EVALUATE].facts
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
            teacher_name(self.recipe),
        )

        def work(part: Path) -> dict[str, Any]:
            found = next(c for c in find_checkpoints(stages[FIT].folder) if c.step == said["chosen_step"])
            checkpoint = replace(found, strength=said["chosen_strength"])
            base = self._load_base(self.recipe.evaluate.precision)
            sealed = stages[PREPARE].facts["report"] and self.kind.has_face
            judge = partial(self._scoring.likeness, stages[PREPARE].folder) if sealed else None
            return stage.export(checkpoint, base, stages[EVALUATE].folder, settings, judge, part)

        return Job(inputs, work)

    def lock(self) -> dict[str, Any]:
        """All that decides the result, as lock.json holds it from the start."""
        lock = {
            "schema": 1,
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_sha256": self.recipe.sha256(),
            "photos": sorted(self.photo_hashes.values()),
            "weights": {file: WEIGHTS[file].sha256 for file in self.model_files},
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
    def mask(self) -> str:
        """`fit.mask`, where anything is fitted."""
        return self.recipe.fit.mask if self.adapter is None else "box"

    @property
    def taught(self) -> bool:
        """Whether anything is fitted, with an identity loss."""
        return self.adapter is None and self.recipe.fit.identity_weight is not None

    @cached_property
    def model_files(self) -> list[str]:
        """The pinned model files that this run needs."""
        if not self.kind.has_face:
            return []
        return needed() if self.mask == "box" else needed(MASKS)

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
        return BaseFacts(base.name, base.folder, base.sha256, base.size_px, base.step_px)

    @property
    def _scoring(self) -> Scoring:
        return Scoring(self.recipe, self.album, self.console)

    def _load_base(self, precision: str) -> Base:
        return load_base(self.recipe, precision, self.console)

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


def _fit(
    recipe: Recipe, samples: Path, part: Path, console: Console, check: Callable[[Checkpoint], float] | None = None
) -> dict[str, Any]:
    from trainer.fit import stage

    base = load_base(recipe, recipe.fit.precision, console, recipe.base.quantize, recipe.fit.offload)
    return stage.fit(samples, base, fit_settings(recipe), part, console, check, teacher_of(recipe))


def fit_settings(recipe: Recipe) -> Settings:
    """What fit needs of the recipe, flat."""
    from trainer.fit.settings import Settings

    values = {name: getattr(recipe.fit, name) for name in Settings.__slots__ if name != "trigger"}
    values["token_init"] = recipe.fit.token_init or recipe.prepare.class_word
    return Settings(recipe.prepare.trigger, **values)


def _cost(stages: Mapping[str, Stage]) -> dict[str, Any]:
    if FIT not in stages:  # made elsewhere
        return dict.fromkeys(OF_FIT) | {"total_s": round(stages[PREPARE].seconds, 2)}
    fitted = stages[FIT].facts
    return {key: fitted[key] for key in OF_FIT} | {"total_s": round(stages[PREPARE].seconds + fitted["fit_s"], 2)}
