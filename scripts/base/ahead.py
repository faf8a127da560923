"""Batches are drawn while a step computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

Batch = TypeVar("Batch")


def ahead(draw: Callable[[int], Batch], step: int, workers: int = 0) -> Iterator[Batch]:
    """Yield `draw(step)`, `draw(step + 1)` and so on, drawn by as many processes; by a thread where there are none.

    A GPU can be done with a step before one process has drawn the next.
    """
    if workers:
        loader = DataLoader(
            _Draws(draw), batch_size=None, sampler=count(step), num_workers=workers, multiprocessing_context="fork"
        )
        yield from loader
        return
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(draw, step)
        while True:
            batch = coming.result()
            step += 1
            coming = thread.submit(draw, step)
            yield batch


class _Draws(Dataset[Batch], Generic[Batch]):
    """`draw`'s batches by their step."""

    def __init__(self, draw: Callable[[int], Batch]) -> None:
        self.draw = draw

    def __getitem__(self, step: int) -> Batch:
        return self.draw(step)
