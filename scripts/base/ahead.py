"""The next batch is drawn while a step computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def ahead(draw: Callable[[int], Batch], step: int) -> Iterator[Batch]:
    """Yield `draw(step)`, `draw(step + 1)` and so on; each is drawn in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(draw, step)
        while True:
            batch = coming.result()
            step += 1
            coming = thread.submit(draw, step)
            yield batch
