"""Who teaches an adapter by the identity loss: never the judge, and where it is the gate, that is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import UsageError
from trainer.recipe import TEACHER, Recipe
from trainer.weights import cache_folder

if TYPE_CHECKING:
    from trainer.faces.base import DifferentiableEmbedder

HINT = "set faces.judge to another engine"


def teacher_of(recipe: Recipe) -> DifferentiableEmbedder | None:
    """The eyes of the identity loss; None where the recipe has none. Raises UsageError where they are the judge's."""
    from trainer.faces.base import get_differentiable

    if recipe.fit.identity_weight is None:
        return None
    if recipe.faces.judge == TEACHER:
        raise UsageError(f"{TEACHER} cannot teach an adapter and judge it", HINT)
    return get_differentiable(TEACHER, cache_folder())


def teacher_name(recipe: Recipe) -> str | None:
    """Who taught the adapter of this recipe, or the one that it starts from."""
    from trainer.adapter import teacher_in

    if recipe.fit.identity_weight is not None:
        return TEACHER
    return None if recipe.fit.warm_start is None else teacher_in(Path(recipe.fit.warm_start))


def refuse_pupil(recipe: Recipe, adapter: Path) -> None:
    """Raises UsageError for an adapter made elsewhere that the judge itself has taught."""
    from trainer.adapter import teacher_in

    if teacher_in(adapter) == recipe.faces.judge:
        raise UsageError(f"{adapter} was taught by {recipe.faces.judge}, which cannot judge it then", HINT)


def taught_by_gate(recipe: Recipe) -> list[str]:
    """The doubt that the checkpoint was chosen by the eyes that taught it; empty where it was not."""
    if recipe.fit.identity_weight is None or recipe.faces.gate != TEACHER:
        return []
    return [f"{TEACHER} taught the adapter and chose it: what the gate says is flattered, the judge's numbers are not"]
