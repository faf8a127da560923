"""Tables of figures, and where a benchmark writes one into a page of the documentation: between two marks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FIGURES = {  # of a base, as `base_model.py --curve` keeps them
    "found": "face found",
    "followed": "prompt followed",
    "frechet_judge": "Fréchet, judge",
    "frechet_gate": "Fréchet, gate",
    "recall_judge": "recall, judge",
    "recall_gate": "recall, gate",
    "trained_less_held_out": "trained on, less held out",
    "floor_judge": "its floor",
    "floor_gate": "its floor",
}


def figures_table(head: str, rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> str:
    """Markdown: a row a name, a column a figure called as in `columns`; `-` for what was not measured."""
    lines = [f"| {head} | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, found in rows.items():
        cells = [f"{found[key]:.3f}" if key in found else "-" for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table(page: Path, name: str, text: str) -> None:
    """Put `text` between the marks of `name` in `page`, or at its end where it has none."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, _, rest = page.read_text().partition(start)
    after = rest.partition(end)[2] if rest else "\n"
    page.write_text(f"{before.rstrip()}\n\n{start}\n{text.strip()}\n{end}{after}")
