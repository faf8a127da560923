"""Tables that a benchmark writes into a page of the documentation, between two marks."""

from __future__ import annotations

from pathlib import Path


def write_table(page: Path, name: str, text: str) -> None:
    """Put `text` between the marks of `name` in `page`, or at its end where it has none."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, _, rest = page.read_text().partition(start)
    after = rest.partition(end)[2] if rest else "\n"
    page.write_text(f"{before.rstrip()}\n\n{start}\n{text.strip()}\n{end}{after}")
