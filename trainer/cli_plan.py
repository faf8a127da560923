"""The command that says, before anything is brought or trained, what a recipe needs and how to make it fit."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli_run import Json, Overrides, carry_out
from trainer.console import Console
from trainer.errors import MissingPartError, UsageError

if TYPE_CHECKING:
    from trainer.fit.plan import Planned

HEADER = ("rung", "loading", "weights", "adapter", "step", "peak", "s a step", "fits")


def add_plan_command(app: typer.Typer) -> None:
    """Put it on the app."""

    @app.command()
    def plan(
        recipe: Annotated[str, typer.Option("--recipe", help="Recipe name or .yaml file.")] = "portrait-tiny",
        memory: Annotated[
            str | None, typer.Option("--memory", help="Such as 12GB; else all that the device has.")
        ] = None,
        overrides: Overrides = None,
        json: Json = False,
    ) -> None:
        """Predict the memory and time of a fit, and choose what makes it fit; nothing is brought."""
        carry_out("plan", json, lambda console: _planned(recipe, memory, overrides or [], console))


def _planned(name: str, memory: str | None, overrides: Sequence[str], console: Console) -> dict[str, Any]:
    """Print the ladder and the command. Raises MissingPartError where no rung fits."""
    from trainer.bases.base import best_device, resolve_precision
    from trainer.fit.plan import bytes_of, ladder, memory_of, plan
    from trainer.jobs import fit_settings
    from trainer.recipe import load_recipe

    recipe = load_recipe(name, overrides).recipe
    if recipe.fit.identity_weight is not None:
        raise UsageError(
            "the plan counts no VAE decoder and no embedder, which an identity loss adds to each step",
            "leave room for them, and plan the rest with --set fit.identity_weight=null",
        )
    device = best_device()
    available = memory_of(device) if memory is None else bytes_of(memory)
    settings, precision = fit_settings(recipe), resolve_precision(recipe.fit.precision)
    rungs = ladder(settings, precision, recipe.base.quantize, device.type)
    with console.progress("counting", len(list(rungs))) as tick:
        planned = plan(recipe.base.model_dump(), settings, precision, device, available, tick)
    if settings.stop_after is not None:
        console.say("not counted: the second copy of the base that fit.stop_after holds")
    if settings.offload and device.type != "cuda":
        console.say(f"fit.offload gains nothing on the {device.type}: its memory is the main memory")
    title = f"{recipe.name} in {available / 1e9:.1f} GB of the {device.type}; GB, predicted; seconds are rough"
    console.table(title, [_row(one) for one in planned], HEADER)
    last = planned[-1]
    if not last.fits:
        raise MissingPartError(
            f"{recipe.name} needs {last.estimate.peak / 1e9:.1f} GB (and a tenth to spare) on the lowest rung,"
            f" more than {available / 1e9:.1f} GB",
            _hint(last, recipe.base.size_px),
        )
    flags = [f"--set {shlex.quote(text)}" for text in [*overrides, *_flags(last)]]
    command = " ".join(["trainer train SUBJECT", f"--recipe {shlex.quote(name)}", *flags])
    console.result(f"about {_told(last.step_s * settings.steps)} for {settings.steps} steps:\n{command}")
    return {
        "device": device.type,
        "memory_bytes": available,
        "rungs": [_said(one) for one in planned],
        "set": _flags(last),
        "fit_s": round(last.step_s * settings.steps, 1),
        "command": command,
    }


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _flags(one: Planned) -> list[str]:
    return [f"{key}={str(value).lower()}" for key, value in one.rung.changes.items()]


def _hint(last: Planned, size_px: int | None) -> str:
    needs = last.estimate
    if needs.process + needs.loading >= needs.fitting:
        return "the base's parts alone do not fit: take a smaller base or more memory"
    return "smaller pictures need less: --set base.size_px=512" if (size_px or 1024) > 512 else "take a smaller base"


def _row(one: Planned) -> tuple[str, ...]:
    e = one.estimate
    amounts = [e.process + e.loading, e.frozen, e.adapter, e.step + e.holes, e.peak]
    said = [f"{amount / 1e9:.2f}" for amount in amounts]
    return (one.rung.words, *said, f"{one.step_s:.3g}", "yes" if one.fits else "no")


def _said(one: Planned) -> dict[str, Any]:
    """A rung for the envelope."""
    e = one.estimate
    names = ("process", "loading", "frozen", "adapter", "step", "holes", "fitting", "peak")
    parts = {name: getattr(e, name) for name in names}
    return {
        "words": one.rung.words,
        "set": _flags(one),
        "bytes": parts,
        "flops": e.flops,
        "copied_bytes": e.copied,
        "step_s": round(one.step_s, 4),
        "fits": one.fits,
    }
