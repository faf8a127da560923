"""The stages in order: what is skipped, what is resumed, what is written down."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.album import CACHE, LOOKS, read_album
from trainer.console import Console
from trainer.errors import GateMissed, PhotosError, UsageError
from trainer.jobs import EVALUATE, EXPORT, FIT, PREPARE, STAGES, Job, Jobs, hash_of_reference
from trainer.kinds import KINDS
from trainer.processes import Processes
from trainer.recipe import Layered, Recipe, load_recipe
from trainer.run import Run, Stage, exclusive, fingerprint_of, open_run, saying_disk_full
from trainer.subject import Subject, find_subject
from trainer.weights import cache_folder, download_words, fetch


@dataclass
class Pipeline:
    """One subject, one recipe, one run folder."""

    subject: Subject
    layered: Layered
    runs: Path
    console: Console
    fresh: bool = False
    adapter: Path | None = None
    """Made by any tool: it is scored on all usable photos, and nothing is fitted or exported."""
    reference: Path | None = None
    """A photo of the person that tells whose album it is; it may lie anywhere and is only read."""
    reused: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """The checked recipe."""
        return self.layered.recipe

    def run(self, until: str = EXPORT) -> dict[str, Any]:
        """Run every stage up to `until`, skipping what is there; returns the summary.

        Of several processes only the first calls this; the others call `trainer.jobs.take_part`.

        Raises PhotosError, MissingPartError or IntegrityError; see `trainer.errors`. `check_gate` reads the summary.
        """
        with Processes() as processes:
            return self._run(until, processes)

    def _run(self, until: str, processes: Processes) -> dict[str, Any]:
        folder = self.runs / self.subject.name
        hash_of_reference(self.reference)
        kind = KINDS[self.recipe.prepare.subject_kind]
        if self.reference is not None and not kind.has_face:
            raise UsageError(f"--reference tells whose face to look for: {kind.faceless}", "leave it out")
        if self.adapter is not None:
            _check_adapter(self.adapter)
        with saying_disk_full(folder):  # before the folder is made: a place without photos leaves nothing behind
            captions = self.adapter is None and self.recipe.prepare.captioner == "sidecar"
            album = read_album(self.subject.photos, folder / CACHE, captions)
        jobs = Jobs(self.subject, self.recipe, self.console, album, folder / CACHE, self.adapter, self.reference)
        jobs.processes = processes
        with saying_disk_full(folder), exclusive(folder):
            started = time.monotonic()
            if self.subject.consent() is None:
                self.console.say(f"no consent.toml beside the photos: {jobs.kind.rights}")
            self._bring_weights(jobs.model_files)
            run = self._open(folder, jobs.lock())
            stages = self._stages(run, jobs, until)
            seconds = time.monotonic() - started
            run.event("done", seconds=round(seconds, 2))
            return self._summary(run, stages, jobs.base.folder, seconds)

    def _stages(self, run: Run, jobs: Jobs, until: str) -> dict[str, Stage]:
        """Every stage up to `until`, by name, in order."""
        makers = {PREPARE: jobs.prepare, FIT: jobs.fit, EVALUATE: jobs.evaluate, EXPORT: jobs.export}
        names = STAGES if self.adapter is None else (PREPARE, EVALUATE)
        stages: dict[str, Stage] = {}
        for name in names:
            stages[name] = self._stage(run, name, makers[name](stages))
            if name == PREPARE:
                _lock_split(run, stages[PREPARE], jobs.photo_hashes)
            elif name == FIT:
                facts = stages[FIT].facts
                run.add_to_lock(threads=facts.get("threads"), machine=facts.get("machine"))
            if name == until:
                break
        return stages

    def _bring_weights(self, files: Sequence[str]) -> None:
        missing = [file for file in files if not (cache_folder() / file).is_file()]
        if missing:
            size = download_words(missing)
            self.console.say(f"bringing {len(missing)} face model files ({size}, once) into {cache_folder()}")
        with saying_disk_full(cache_folder()):
            fetch(cache_folder(), files=files)

    def _open(self, folder: Path, lock: dict[str, Any]) -> Run:
        run = open_run(folder, self.recipe.name, lock)
        if self.fresh:
            for name in STAGES:  # finished stages stay until their successors are whole
                shutil.rmtree(run.folder / f".{name}.part", ignore_errors=True)
            shutil.rmtree(folder / CACHE / LOOKS, ignore_errors=True)
        run.event("opened", run=run.folder.name)
        return run

    def _stage(self, run: Run, name: str, job: Job) -> Stage:
        """Reuse the finished stage with these inputs, else do the work in its part folder and put it in place."""
        fingerprint = fingerprint_of(stage=name, inputs=job.inputs)
        done = None if self.fresh else run.finished(name, fingerprint)
        if done:
            self.reused.append(name)
            run.event("reused", stage=name)
            return done
        part = run.part(name, fingerprint)
        run.event("started", stage=name)
        started = time.monotonic()
        try:
            facts = job.work(part)
        except PhotosError:
            shutil.rmtree(part)
            run.event("refused", stage=name)
            raise
        seconds = time.monotonic() - started
        run.event("finished", stage=name, seconds=round(seconds, 2), **facts)
        return run.finish(name, fingerprint, seconds, facts)

    def _summary(self, run: Run, stages: dict[str, Stage], base_folder: str, seconds: float) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "run": str(run.folder),
            "seconds": round(seconds, 2),
            "reused": self.reused,
            "stages": {name: {"seconds": stage.seconds, **stage.facts} for name, stage in stages.items()},
        }
        if EXPORT in stages:
            summary["adapter"] = str(stages[EXPORT].folder / f"{self.subject.name}.safetensors")
            summary["base_folder"] = base_folder
        if EVALUATE in stages:
            summary["scorecard"] = str(stages[EVALUATE].folder / "scorecard.json")
        return summary


def _check_adapter(file: Path) -> None:
    """Refuse a file that is no whole LoRA or DoRA before any photo is looked at."""
    from trainer.adapter import read_whole
    from trainer.layouts.layers import read_layers

    if not file.is_file():
        raise UsageError(f"{file}: no such file", "give the path of a .safetensors adapter")
    tensors, _, metadata = read_whole(file)
    read_layers(file, tensors, metadata)


def _lock_split(run: Run, prepared: Stage, hashes: Mapping[str, str]) -> None:
    """Add which photo, by hash, plays which role to the lock."""
    from trainer.prepare.stage import read_split

    split = read_split(prepared.folder)
    dealt = {"fit": split.fit, "select": split.select, "report": split.report}
    run.add_to_lock(split={role: sorted(hashes[name] for name in names) for role, names in dealt.items()})


def check_gate(summary: dict[str, Any], gate: float) -> None:
    """Raises GateMissed when a gate is set and the likeness is below it or cannot be measured."""
    of_ceiling = summary["stages"][EVALUATE]["of_ceiling"]
    if gate > 0 and (of_ceiling is None or of_ceiling < gate):
        raise GateMissed(
            f"of_ceiling is {of_ceiling if of_ceiling is None else round(of_ceiling, 3)}, the recipe asks for {gate:g}",
            "read report.html; more and more varied photos help most",
            summary,
        )


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
