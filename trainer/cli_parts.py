"""The commands for what a run stands on: recipes, the pinned face model files, and the machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trainer.cli_run import Json, Overrides, carry_out
from trainer.console import Console

DEFAULT_RECIPE = "portrait-tiny"


def add_part_commands(app: typer.Typer) -> None:
    """Put `recipe`, `weights` and `doctor` on the app."""
    app.add_typer(_recipe_commands(), name="recipe")
    app.add_typer(_weights_commands(), name="weights")
    app.command()(doctor)


def doctor(json: Json = False) -> None:
    """Say whether this machine is ready for a run, and how to mend what is not."""

    def work(console: Console) -> dict[str, Any]:
        from dataclasses import asdict
        from pathlib import Path

        from trainer.doctor import look_around
        from trainer.errors import NotReady

        found = look_around(Path.cwd())
        console.table("doctor", [(f.what, f.state, f.says, f.hint) for f in found], ("what", "state", "found", "mend"))
        broken = [f for f in found if f.state == "broken"]
        result = {"ready": not broken, "findings": [asdict(f) for f in found]}
        if broken:
            raise NotReady(f"not ready: {', '.join(f.what for f in broken)}", broken[0].hint, result)
        console.result("ready")
        return result

    carry_out("doctor", json, work)


def _recipe_commands() -> typer.Typer:
    recipe_app = typer.Typer(help="Recipes: list, show, check.", no_args_is_help=True)

    @recipe_app.command("list")
    def recipe_list(json: Json = False) -> None:
        """The shipped recipes."""

        def work(console: Console) -> dict[str, Any]:
            from trainer.recipe import recipe_files

            found = {name: str(path) for name, path in recipe_files().items()}
            for name, path in found.items():
                console.result(f"{name:<20} {path}")
            return {"recipes": found}

        carry_out("recipe list", json, work)

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
                (key, str(value), layered.sources.get(key, "default"), words.get(key, ""))
                for key, value in values.items()
            ]
            console.table(str(layered.file), rows, ("key", "value", "from", "what it does"))
            keys = [{"key": key, "value": values[key], "from": source, "doc": doc} for key, _, source, doc in rows]
            return {"file": str(layered.file), "sha256": layered.recipe.sha256(), "values": keys}

        carry_out("recipe show", json, work)

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

        carry_out("recipe check", json, work)

    return recipe_app


def _weights_commands() -> typer.Typer:
    weights_app = typer.Typer(help="Pinned face model files: list, get.", no_args_is_help=True)

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

        carry_out("weights list", json, work)

    @weights_app.command("get")
    def weights_get(
        again: Annotated[bool, typer.Option("--again", help="Also replace altered files.")] = False,
        whole: Annotated[bool, typer.Option("--all", help="Also those that few recipes or a new base need.")] = False,
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

        carry_out("weights get", json, work)

    return weights_app
