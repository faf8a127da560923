"""The commands that take an adapter file, made by any tool: inspect, convert, merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trainer.console import Console
from trainer.errors import UsageError

Work = Callable[[Console], dict[str, Any]]
Run = Callable[[str, bool, Work], None]
File = Annotated[Path, typer.Argument(help="An adapter file, made by any tool.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON envelope on stdout.")]


def add_adapter_commands(app: typer.Typer, run: Run) -> None:
    """Put them on the app; `run` calls the work and leaves with its exit code."""

    @app.command()
    def inspect(adapter: File, json: Json = False) -> None:
        """What an adapter file holds and says of itself: layout, rank, base, score."""

        def work(console: Console) -> dict[str, Any]:
            from trainer.adapter import describe
            from trainer.summary import show_adapter

            if not adapter.is_file():
                raise UsageError(f"{adapter}: no such file", "give the path of a .safetensors adapter")
            said = describe(adapter)
            show_adapter(said, console)
            return said

        run("inspect", json, work)

    @app.command()
    def convert(
        file: File,
        layout: Annotated[
            Literal["diffusers", "kohya"] | None,
            typer.Option("--layout", help="Names of the tensors; else as they are."),
        ] = None,
        dtype: Annotated[
            Literal["fp32", "fp16", "bf16"] | None, typer.Option("--dtype", help="Number format; else as it is.")
        ] = None,
        rank: Annotated[int | None, typer.Option("--rank", min=1, help="Cut higher ranks down to this one.")] = None,
        out: Annotated[Path | None, typer.Option("--out", help="The file to write; else beside FILE.")] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file where it is there.")] = False,
        json: Json = False,
    ) -> None:
        """An adapter in another layout, number format or rank, and what that costs."""

        def work(console: Console) -> dict[str, Any]:
            from trainer.export.convert import convert as convert_file
            from trainer.summary import show_converted

            said = convert_file(file, layout, dtype, rank, out, overwrite)
            show_converted(said, console)
            return said

        run("convert", json, work)

    @app.command()
    def merge(
        file: File,
        base: Annotated[Path, typer.Option("--base", help="The base's diffusers folder, which is only read.")],
        out: Annotated[Path, typer.Option("--out", help="The new folder to write.")],
        scale: Annotated[float, typer.Option("--scale", min=-10, max=10, help="How much of the adapter.")] = 1.0,
        json: Json = False,
    ) -> None:
        """A base with the adapter in its weights: a diffusers folder that needs no adapter."""

        def work(console: Console) -> dict[str, Any]:
            from trainer.export.merge import merge as merge_file
            from trainer.summary import show_merged

            said = merge_file(file, base, out, scale)
            show_merged(said, console)
            return said

        run("merge", json, work)
