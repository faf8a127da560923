"""The models of a run, and who looks at its pictures through them: flat values of the recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.album import Album
from trainer.console import Console
from trainer.recipe import Recipe
from trainer.records import RGB, Checkpoint, Split
from trainer.weights import cache_folder

if TYPE_CHECKING:
    from trainer.bases.base import Base
    from trainer.bases.sampling import Sampling
    from trainer.evaluate.clip import ClipScorer
    from trainer.evaluate.scenes import SceneEvaluator
    from trainer.evaluate.settings import Photos, Settings
    from trainer.evaluate.stage import Evaluator
    from trainer.faces.base import Embedder
    from trainer.kinds import Kind

CHECKS = "checks"  # in 2_fit: what the checks of `fit.stop_after` made
UNUSED_IN_CHECKS = {"gate", "choose", "false_accept_rate", "bootstrap", "strengths"}


@dataclass(frozen=True, slots=True)
class Scoring:
    """The evaluation's parts for one recipe and album."""

    recipe: Recipe
    album: Album
    console: Console

    def evaluator(self, prepared: Path, part: Path, split: Split, checked: Path | None = None) -> Evaluator:
        """With all models in memory; it leaves its files in `part`, and reads photos of this split alone.

        `checked` is where the checks of the fit left their pictures.
        """
        from trainer.evaluate import stage
        from trainer.faces.attributes import AttributeReader
        from trainer.faces.base import get_detector

        faces, weights = self.recipe.faces, cache_folder()
        eyes = stage.Eyes(
            get_detector(weights),
            embedder_of(self.recipe, faces.gate),
            embedder_of(self.recipe, faces.judge),
            AttributeReader(weights),
            self._clip(),
        )
        photos = self._photos(prepared, split)
        return stage.Evaluator(self._base(), self._settings(checked), eyes, photos, part, self.console)

    def scene_evaluator(self, prepared: Path, part: Path, kind: Kind) -> SceneEvaluator:
        """As `evaluator`, for pictures in which no face is looked for."""
        from trainer.evaluate.scenes import SceneEvaluator
        from trainer.prepare.stage import read_split

        photos = self._photos(prepared, read_split(prepared))
        return SceneEvaluator(self._base(), self._settings(), self._clip(), photos, kind, part, self.console)

    def _base(self) -> Base:
        return load_base(self.recipe, self.recipe.evaluate.precision, self.console)

    def _clip(self) -> ClipScorer | None:
        from trainer.evaluate.clip import ClipScorer

        where = self.recipe.evaluate.clip
        return None if where is None else ClipScorer(where)

    def _photos(self, prepared: Path, split: Split) -> Photos:
        from trainer.evaluate.settings import Photos
        from trainer.prepare.stage import read_framed

        return Photos(self.album.paths(), read_framed(prepared), split, prepared / "images")

    def _settings(self, checked: Path | None = None) -> Settings:
        from trainer.evaluate import stage

        e, faces = self.recipe.evaluate, self.recipe.faces
        return stage.Settings(
            trigger=self.recipe.prepare.trigger,
            class_word=self.recipe.prepare.class_word,
            seeds=e.seeds,
            select_prompts=e.select_prompts,
            sampling=sampling_of(self.recipe),
            false_accept_rate=e.false_accept_rate,
            bootstrap=e.bootstrap,
            copying_limit=e.copying_limit,
            gate_engine=faces.gate,
            judge_engine=faces.judge,
            max_pixels=self.recipe.prepare.max_pixels,
            seed=e.seed,
            choose=e.choose,
            strengths=e.strengths,
            base_pictures=cache_folder() / "base_pictures",
            checked=checked,
        )

    def check(self, prepared: Path, part: Path) -> Callable[[Checkpoint], float] | None:
        """Scores a checkpoint for `fit.stop_after`, seeing no report photo; None where nothing asks for it."""
        from trainer.evaluate.check import Checks
        from trainer.prepare.stage import read_split

        if self.recipe.fit.stop_after is None:
            return None
        split = replace(read_split(prepared), report=())
        if not split.select:
            self.console.say("fit.stop_after is left out: too few photos to seal any that could score a checkpoint")
            return None
        return Checks(lambda: self.evaluator(prepared, part / CHECKS, split))

    def likeness(self, prepared: Path, pictures: Sequence[RGB]) -> list[float]:
        """Of each picture to the sealed photos, as the judge sees it."""
        from trainer.evaluate.judge import likeness
        from trainer.faces.base import get_detector
        from trainer.prepare.stage import read_framed, read_split

        files = {name: self.album.paths()[name] for name in read_split(prepared).report}
        eyes = get_detector(cache_folder()), embedder_of(self.recipe, self.recipe.faces.judge)
        return likeness(pictures, files, read_framed(prepared), self.recipe.prepare.max_pixels, *eyes)


def sampling_of(recipe: Recipe) -> Sampling:
    """How the evaluation makes its pictures."""
    from trainer.bases.base import resolve_precision
    from trainer.bases.sampling import Sampling

    e = recipe.evaluate
    return Sampling(e.sampling_steps, e.guidance, e.batch_size, resolve_precision(e.precision))


def load_base(recipe: Recipe, precision: str, console: Console, quantize: str = "none", offload: bool = False) -> Base:
    """The recipe's base, with its weights rounded as `quantize` says, or its blocks in main memory."""
    from trainer.bases.base import get_base, resolve_precision

    chosen = recipe.base
    with console.progress(f"loading {chosen.name}", 1) as tick:
        values = chosen.model_dump() | {"quantize": quantize, "offload": offload}
        base = get_base(**values, precision=resolve_precision(precision))
        tick()
    return base


def embedder_of(recipe: Recipe, engine: str) -> Embedder:
    """The embedder called `engine`, with what the recipe says of InsightFace's packs."""
    from trainer.faces.base import get_embedder

    faces = recipe.faces
    return get_embedder(engine, cache_folder(), faces.insightface_pack, faces.insightface_terms_accepted)


def decides_checks(recipe: Recipe) -> dict[str, Any]:
    """What the scores that end a fit early hang on, beside the fit itself."""
    from trainer.evaluate import stage

    return {
        "version": stage.VERSION,
        "evaluate": recipe.evaluate.model_dump(mode="json", exclude=UNUSED_IN_CHECKS),
        "faces": recipe.faces.model_dump(mode="json", exclude={"judge"}),
        "trigger": recipe.prepare.trigger,
        "class_word": recipe.prepare.class_word,
    }
