"""Commands: parse, call, render, exit codes. Heavy imports happen in the stage that needs them."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from trainer.cli_adapters import add_adapter_commands
from trainer.cli_parts import DEFAULT_RECIPE, add_part_commands
from trainer.cli_plan import add_plan_command
from trainer.cli_run import Json, Overrides, carry_out
from trainer.console import Console
from trainer.errors import UsageError
from trainer.portrait.styles import DEFAULT_STYLE

app = typer.Typer(
    name="trainer",
    help="Photos of a person to a LoRA adapter that proves its likeness.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
lock_app = typer.Typer(help="Locks of runs: diff.", no_args_is_help=True)
app.add_typer(lock_app, name="lock")

SubjectName = Annotated[str, typer.Argument(help="Plain name of the person, such as alice.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Recipe name or .yaml file.")]
PhotosFolder = Annotated[Path | None, typer.Option("--photos", help="Folder or .zip; else subjects/NAME/photos.")]
Reference = Annotated[Path | None, typer.Option("--reference", help="A photo of the person: whose album it is.")]
RunsFolder = Annotated[Path, typer.Option("--out", help="Where runs are kept.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do finished stages again.")]


def _add_stage_command(command: str, until: str, words: str) -> None:
    """These commands take the same options and differ in where they stop."""

    @app.command(command, help=words)
    def run(
        subject: SubjectName,
        recipe: RecipeName = None,
        photos: PhotosFolder = None,
        reference: Reference = None,
        overrides: Overrides = None,
        out: RunsFolder = Path("runs"),
        fresh: Fresh = False,
        json: Json = False,
    ) -> None:
        _stages(command, until, subject, recipe, photos, reference, overrides, out, fresh, json)


_add_stage_command(
    "train", "4_export", "Photos to a scored adapter. Finished stages are skipped, a stopped one resumes."
)
_add_stage_command("prepare", "1_prepare", "Check the photos, seal some, frame and caption the rest.")
_add_stage_command("fit", "2_fit", "Train the adapter, after prepare where that is not done.")


@app.command()
def evaluate(
    subject: SubjectName,
    recipe: RecipeName = None,
    photos: PhotosFolder = None,
    reference: Reference = None,
    overrides: Overrides = None,
    out: RunsFolder = Path("runs"),
    fresh: Fresh = False,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Score this file, made by any tool.")] = None,
    json: Json = False,
) -> None:
    """Score the checkpoints on the sealed photos, after the stages before it; or an adapter on all photos."""
    _stages("evaluate", "3_evaluate", subject, recipe, photos, reference, overrides, out, fresh, json, adapter)


_add_stage_command("export", "4_export", "Write the chosen checkpoint as adapter files, after the stages before it.")


@app.command()
def batch(
    subjects: Annotated[list[str], typer.Argument(help="Plain names, photos in subjects/NAME/photos.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    out: RunsFolder = Path("runs"),
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Train many subjects, one after the other; what ends one does not end the others."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.batch import check_each, train_each
        from trainer.recipe import load_recipe
        from trainer.subject import find_subject
        from trainer.summary import show_batch

        layered = load_recipe(recipe or DEFAULT_RECIPE, overrides or [])
        found = [find_subject(name, Path.cwd()) for name in dict.fromkeys(subjects)]
        outcomes = train_each(found, layered, out, console, fresh)
        show_batch(outcomes, console)
        check_each(outcomes)
        return {"subjects": outcomes}

    carry_out("batch", json, work)


@app.command()
def portrait(
    subject: SubjectName,
    style: Annotated[str, typer.Option("--style", help="An unknown one lists those of the base.")] = DEFAULT_STYLE,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Instead: words of your own.")] = None,
    count: Annotated[int, typer.Option("--count", help="Pictures to keep.")] = 8,
    tries: Annotated[int, typer.Option("--tries", help="Pictures to make for each that is kept.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Another one gives other pictures.")] = 0,
    run: Annotated[Path | None, typer.Option("--run", help="Finished run; else OUT/NAME/latest.")] = None,
    out: RunsFolder = Path("runs"),
    json: Json = False,
) -> None:
    """Pictures from the exported adapter, those most like the person first."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.portraits import Asked, make_portraits
        from trainer.subject import check_name
        from trainer.summary import show_portraits

        check_name(subject)
        made = make_portraits(run or out / subject / "latest", Asked(style, prompt, count, tries, seed), console)
        show_portraits(made, console)
        return made

    carry_out("portrait", json, work)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, such as runs/alice/latest; the first is the measure.")
    ],
    json: Json = False,
) -> None:
    """Scored runs side by side, with the interval of their difference."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.evaluate.compare import compare as compare_runs
        from trainer.summary import show_comparison

        found = compare_runs(runs)
        show_comparison(found, console)
        return found

    carry_out("compare", json, work)


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, such as runs/alice/latest.")],
    photos: PhotosFolder = None,
    reference: Reference = None,
    json: Json = False,
) -> None:
    """Run a locked run again and say whether the same adapter comes out."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.replay import check_same
        from trainer.replay import replay as replay_run
        from trainer.summary import show_replay

        said = replay_run(run, photos, console, reference)
        show_replay(said, console)
        check_same(said)
        return said

    def follow(console: Console) -> None:
        from trainer.replay import follow as follow_replay

        follow_replay(run, console)

    carry_out("replay", json, work, follow)


@lock_app.command("diff")
def lock_diff(
    first: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    other: Annotated[Path, typer.Argument(help="Another one.")],
    json: Json = False,
) -> None:
    """Why two runs may differ, in words: recipe, photos, captions, split, weights, base, versions, threads."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.finished import read_lock
        from trainer.lock_words import lock_differences

        found = lock_differences(read_lock(first), read_lock(other))
        console.result("\n".join(found) or "the locks say the same")
        return {"differences": found}

    carry_out("lock diff", json, work)


@app.command()
def forget(
    subject: SubjectName,
    out: RunsFolder = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    json: Json = False,
) -> None:
    """Delete every photo, embedding, cache and adapter of a person that Likeness keeps."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.subject import check_name
        from trainer.subject import forget as forget_subject

        check_name(subject)
        if not yes and (json or not typer.confirm(f"Delete subjects/{subject} and {out / subject}?")):
            raise UsageError("nothing was deleted", "pass --yes to delete without being asked")
        gone = [str(path) for path in forget_subject(subject, Path.cwd(), out)]
        console.result("deleted: " + (", ".join(gone) or "nothing, there was none"))
        return {"deleted": gone}

    carry_out("forget", json, work)


def main() -> None:
    """The `trainer` command."""
    for polite in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with SIGINT ignored
        signal.signal(polite, _stop)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it tells of optional parts that nobody here needs
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # so does this one
    app()


def _stages(
    command: str,
    until: str,
    subject: str,
    recipe: str | None,
    photos: Path | None,
    reference: Path | None,
    overrides: list[str] | None,
    out: Path,
    fresh: bool,
    json: bool,
    adapter: Path | None = None,
) -> None:
    def work(console: Console) -> dict[str, Any]:
        from trainer.pipeline import Pipeline, check_gate
        from trainer.recipe import load_recipe
        from trainer.subject import find_subject
        from trainer.summary import show

        layered = load_recipe(recipe or DEFAULT_RECIPE, overrides or [])
        found = find_subject(subject, Path.cwd(), photos)
        summary = Pipeline(found, layered, out, console, fresh, adapter, reference).run(until)
        show(summary, console)
        if until == "4_export":
            check_gate(summary, layered.recipe.evaluate.gate)
        return summary

    def follow(console: Console) -> None:
        from trainer.jobs import take_part
        from trainer.recipe import load_recipe
        from trainer.subject import find_subject

        layered = load_recipe(recipe or DEFAULT_RECIPE, overrides or [])
        find_subject(subject, Path.cwd(), photos)
        take_part(layered.recipe, console)

    carry_out(command, json, work, follow)


add_adapter_commands(app)
add_plan_command(app)
add_part_commands(app)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """A polite kill ends like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
