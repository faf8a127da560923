"""Who looks at pictures for the stages, and through which models: flat values of the recipe."""

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
    from trainer.evaluate.stage import Evaluator
    from trainer.faces.base import Embedder

CHECKS = "checks"  # in 2_fit: what the checks of `fit.stop_after` made
UNUSED_IN_CHECKS = {"gate", "choose", "false_accept_rate", "bootstrap"}


@dataclass(frozen=True, slots=True)
class Scoring:
    """The evaluation's parts for one recipe and album; `load_base` takes a precision."""

    recipe: Recipe
    album: Album
    load_base: Callable[[str], Base]
    console: Console

    def evaluator(self, prepared: Path, part: Path, split: Split, checked: Path | None = None) -> Evaluator:
        """With all models in memory; it leaves its files in `part`, and reads photos of this split alone.

        `checked` is where the checks of the fit left their pictures.
        """
        from trainer.bases.base import resolve_precision
        from trainer.evaluate import stage
        from trainer.evaluate.clip import ClipScorer
        from trainer.evaluate.sample import Sampling
        from trainer.faces.attributes import AttributeReader
        from trainer.faces.base import get_detector
        from trainer.prepare.stage import read_framed

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
            checked=checked,
        )
        eyes = stage.Eyes(
            get_detector(weights),
            embedder_of(self.recipe, faces.gate),
            embedder_of(self.recipe, faces.judge),
            AttributeReader(weights),
            None if e.clip is None else ClipScorer(e.clip),
        )
        real = stage.Photos(self.album.paths(), read_framed(prepared), split, prepared / "images")
        return stage.Evaluator(self.load_base(e.precision), settings, eyes, real, part, self.console)

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
