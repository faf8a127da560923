"""The commands that take an adapter file, made by any tool: inspect, convert, merge, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trainer.cli_run import Json, carry_out
from trainer.console import Console
from trainer.errors import UsageError

File = Annotated[Path, typer.Argument(help="An adapter file, made by any tool.")]


def add_adapter_commands(app: typer.Typer) -> None:
    """Put them on the app."""

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

        carry_out("inspect", json, work)

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

        carry_out("convert", json, work)

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

        carry_out("merge", json, work)

    @app.command()
    def push(
        repo: Annotated[str, typer.Argument(help="Repository on the hub, as OWNER/NAME; made where there is none.")],
        paths: Annotated[list[Path], typer.Argument(help="Adapter files, or the folder 4_export of a run.")],
        public: Annotated[bool, typer.Option("--public", help="A new repository is for all to see.")] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
        json: Json = False,
    ) -> None:
        """Upload adapters and their model card to the Hugging Face hub, after showing each file."""

        def work(console: Console) -> dict[str, Any]:
            from trainer.export.push import listing, upload

            files = listing(repo, paths)
            rows = [(file["name"], str(file["bytes"]), file["sha256"][:12], file["path"]) for file in files]
            console.table(f"to {repo}", rows, ("name there", "bytes", "sha256", "file here"))
            asked = f"Upload these {len(files)} files to {repo} ({'public' if public else 'private where it is new'})?"
            if not yes and (json or not typer.confirm(asked)):
                raise UsageError("nothing was uploaded", "pass --yes to upload without being asked")
            address = upload(repo, files, public)
            console.result(address)
            return {"repo": repo, "files": files, "commit": address}

        carry_out("push", json, work)
