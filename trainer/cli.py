"""Commands: parse, call, render, exit codes. Heavy imports happen in the stage that needs them."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from trainer.cli_adapters import add_adapter_commands
from trainer.cli_plan import add_plan_command
from trainer.console import Console
from trainer.errors import GateMissed, Interrupted, MissingPartError, TrainerError, UsageError
from trainer.processes import index

app = typer.Typer(
    name="trainer",
    help="Photos of a person to a LoRA adapter that proves its likeness.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
lock_app = typer.Typer(help="Locks of runs: diff.", no_args_is_help=True)
recipe_app = typer.Typer(help="Recipes: list, show, check.", no_args_is_help=True)
weights_app = typer.Typer(help="Pinned face model files: list, get.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
app.add_typer(weights_app, name="weights")
app.add_typer(lock_app, name="lock")

SubjectName = Annotated[str, typer.Argument(help="Plain name of the person, such as alice.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Recipe name or .yaml file.")]
PhotosFolder = Annotated[Path | None, typer.Option("--photos", help="Folder or .zip; else subjects/NAME/photos.")]
Reference = Annotated[Path | None, typer.Option("--reference", help="A photo of the person: whose album it is.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one value: section.key=value.")]
RunsFolder = Annotated[Path, typer.Option("--out", help="Where runs are kept.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do finished stages again.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON envelope on stdout.")]
DEFAULT_RECIPE = "portrait-tiny"


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

    _run("compare", json, work)


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

    _run("replay", json, work, follow)


@lock_app.command("diff")
def lock_diff(
    first: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    other: Annotated[Path, typer.Argument(help="Another one.")],
    json: Json = False,
) -> None:
    """Why two runs may differ, in words: recipe, photos, captions, split, weights, base, versions, threads."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.lock_words import lock_differences
        from trainer.replay import read_lock

        found = lock_differences(read_lock(first), read_lock(other))
        console.result("\n".join(found) or "the locks say the same")
        return {"differences": found}

    _run("lock diff", json, work)


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

    _run("forget", json, work)


@recipe_app.command("list")
def recipe_list(json: Json = False) -> None:
    """The shipped recipes."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.recipe import recipe_files

        found = {name: str(path) for name, path in recipe_files().items()}
        for name, path in found.items():
            console.result(f"{name}\t{path}")
        return {"recipes": found}

    _run("recipe list", json, work)


@recipe_app.command("show")
def recipe_show(
    name: Annotated[str, typer.Argument(help="Recipe name or .yaml file.")] = DEFAULT_RECIPE,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Every value of a recipe, where it came from, and what it does."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.recipe import described, flat_values, load_recipe

        layered = load_recipe(name, overrides or [])
        values, words = flat_values(layered.recipe), dict(described())
        rows = [
            (key, str(value), layered.sources.get(key, "default"), words.get(key, "")) for key, value in values.items()
        ]
        console.table(str(layered.file), rows, ("key", "value", "from", "what it does"))
        keys = [{"key": key, "value": values[key], "from": source, "doc": doc} for key, _, source, doc in rows]
        return {"file": str(layered.file), "sha256": layered.recipe.sha256(), "values": keys}

    _run("recipe show", json, work)


@recipe_app.command("check")
def recipe_check(
    name: Annotated[str, typer.Argument(help="Recipe name or .yaml file.")],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Say whether a recipe can be used, with every problem at once."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.recipe import load_recipe

        layered = load_recipe(name, overrides or [])
        console.result(f"{layered.file}: good, {layered.recipe.sha256()[:12]}")
        return {"file": str(layered.file), "sha256": layered.recipe.sha256()}

    _run("recipe check", json, work)


@weights_app.command("list")
def weights_list(json: Json = False) -> None:
    """The pinned face model files and whether they are here and whole."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.weights import WEIGHTS, cache_folder, state_of

        rows = [
            {
                "file": w.file, "state": state_of(w.file, cache_folder()), "licence": w.licence, "sha256": w.sha256,
                "only_for": w.only_for or None,
            }
            for w in WEIGHTS.values()
        ]  # fmt: skip
        table = [
            (w.file, state_of(w.file, cache_folder()), w.licence, w.sha256[:12], w.only_for or "every run")
            for w in WEIGHTS.values()
        ]
        console.table(str(cache_folder()), table, ("file", "state", "licence", "sha256", "needed for"))
        return {"folder": str(cache_folder()), "files": rows}

    _run("weights list", json, work)


@weights_app.command("get")
def weights_get(
    again: Annotated[bool, typer.Option("--again", help="Also replace altered files.")] = False,
    whole: Annotated[bool, typer.Option("--all", help="Also those that only some recipes need.")] = False,
    json: Json = False,
) -> None:
    """Bring the missing files into the user cache and verify them."""

    def work(console: Console) -> dict[str, Any]:
        from trainer.weights import WEIGHTS, cache_folder, download_words, fetch, needed

        files = list(WEIGHTS) if whole else needed()
        console.say(f"bringing face model files ({download_words(files)}, once)")
        brought = fetch(cache_folder(), again, files)
        console.result(f"{len(brought)} brought into {cache_folder()}; all are whole")
        return {"folder": str(cache_folder()), "brought": brought}

    _run("weights get", json, work)


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

    _run(command, json, work, follow)


def _run(
    command: str,
    json: bool,
    work: Callable[[Console], dict[str, Any]],
    follow: Callable[[Console], None] | None = None,
) -> None:
    """Call the work and leave with its exit code; with --json say everything in one envelope.

    Of several processes the first does so; the others call `follow`, where there is one, and keep silent.
    """
    if index():
        _follow(follow)
    console = Console(json_only=json)
    error: TrainerError | None = None
    result: dict[str, Any] | None = None
    try:
        result = work(console)
    except GateMissed as missed:
        error, result = missed, missed.result
    except TrainerError as problem:
        error = problem
    except KeyboardInterrupt:
        error = Interrupted("stopped; every finished step is kept", "run the same command again: it resumes")
    except Exception as bug:
        error = _out_of_memory(bug)
        if error is None:
            traceback.print_exc()
            error = TrainerError(f"a bug: {bug}", "report it with the lines above; what was finished is kept")
    if error:
        console.error(error)
    console.envelope(command, result, error)
    raise typer.Exit(error.exit_status if error else 0)


def _follow(follow: Callable[[Console], None] | None) -> NoReturn:
    """Leave with the exit code of `follow`; what the first process meets too, it says."""
    status = 0
    try:
        if follow:
            follow(Console(quiet=True))
    except (KeyboardInterrupt, Interrupted):
        status = Interrupted.exit_status
    except TrainerError as error:
        status = error.exit_status
        if isinstance(error, MissingPartError):
            Console().error(error)
    except Exception as bug:
        short = _out_of_memory(bug)
        status = short.exit_status if short else 1
        Console().error(short or TrainerError(f"a bug in process {index()}: {bug}"))
        if not short:
            traceback.print_exc()
    raise typer.Exit(status)


def _out_of_memory(bug: Exception) -> TrainerError | None:
    """The error to show when memory ran out, on the GPU or beside it."""
    said = str(bug).lower()
    if isinstance(bug, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
        hint = "lower fit.batch_size or evaluate.batch_size, e.g. --set fit.batch_size=2"
        return MissingPartError(f"not enough memory: {(str(bug).splitlines() or ['MemoryError'])[0]}", hint)
    return None


add_adapter_commands(app, _run)
add_plan_command(app, _run)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """A polite kill ends like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
