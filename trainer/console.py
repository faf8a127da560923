"""What the user sees: progress with time left, tables, errors, and the JSON envelope."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from trainer.errors import TrainerError

Item = TypeVar("Item")
PLAIN_INTERVAL_S = 15.0


class Tick(Protocol):
    """Advances a progress bar."""

    def __call__(self, done: int = 1, note: str = "") -> None:
        """`done` more steps are finished; `note` replaces the text after the bar."""
        ...


class Console:
    """Progress and words on stderr, results on stdout; with `json_only` stdout carries one envelope and no more."""

    def __init__(self, json_only: bool = False, quiet: bool = False) -> None:
        self._json = json_only
        self._out = RichConsole(quiet=json_only or quiet, soft_wrap=True, highlight=False)
        self._err = RichConsole(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """One line about the work, beside the result."""
        self._err.print(_printable(text), markup=False)

    def result(self, text: str) -> None:
        """One line of the result."""
        self._out.print(_printable(text), markup=False)

    def table(self, title: str, rows: Iterable[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
        """A small table on stdout."""
        table = Table(title=Text(_printable(title)), title_justify="left", show_header=bool(header))
        rows = list(rows)
        for index in range(len(rows[0]) if rows else len(header)):
            table.add_column(header[index] if header else "", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_printable(cell)) for cell in row))
        self._out.print(table)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Tick]:
        """A bar with time left; without a terminal, one plain line every 15 seconds."""
        if self._err.is_terminal and not self._err.quiet:
            with self._bar() as bar:
                task = bar.add_task(label, total=total, note="")
                yield lambda done=1, note="": bar.update(task, advance=done, **({"note": note} if note else {}))
        else:
            yield self._plain_tick(label, total)

    def track(self, items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
        """Yield the items under a progress bar."""
        with self.progress(label, total) as tick:
            for item in items:
                yield item
                tick()

    def error(self, error: TrainerError) -> None:
        """What went wrong and what to do, on stderr."""
        self._err.print(_printable(f"error: {error.message}"), markup=False, style="bold red")
        if error.hint:
            self._err.print(_printable(f"try: {error.hint}"), markup=False)

    def envelope(self, command: str, result: dict[str, Any] | None, error: TrainerError | None) -> None:
        """The one JSON line of `--json`."""
        if self._json:
            said = error.told() if error else None
            envelope = {"schema": 1, "command": command, "ok": error is None, "result": result or {}, "error": said}
            sys.stdout.write(json.dumps(envelope, allow_nan=False) + "\n")

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._err,
        )

    def _plain_tick(self, label: str, total: int) -> Tick:
        started = shown = time.monotonic()
        count = 0

        def tick(done: int = 1, note: str = "") -> None:
            nonlocal shown, count
            count += done
            now = time.monotonic()
            if now - shown >= PLAIN_INTERVAL_S or count == total:
                shown = now
                left = (now - started) / max(count, 1) * (total - count)
                self._err.print(f"{label}: {count}/{total}, {left:.0f} s left {note}".rstrip(), markup=False)

        return tick


def _printable(text: str) -> str:
    """Without what could steer a terminal: names and metadata come from files that others made."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
