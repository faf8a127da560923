"""A training that several processes share: each takes its part of every batch, and all step along the mean gradient.

    torchrun --nproc-per-node 2 scripts/base/train_unet.py ...

One process a GPU. On CPUs one a core with `OMP_NUM_THREADS=1`: small layers then wait less for each other's threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

LONGEST_WAIT = timedelta(days=1)  # for the first one to read the pictures and measure their words


@dataclass(frozen=True, slots=True)
class Processes:
    """How many train together, and which of them this is.

    Attributes:
        rank: 0 for the first, which alone writes files.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The first process runs the block before the others do, who then find its files."""
        if not self.is_first:
            distributed.barrier()
        yield
        if self.is_first and self.count > 1:
            distributed.barrier()

    def part(self, batch: int) -> slice:
        """This one's pictures of a batch; raises SystemExit where the processes' parts would differ in size."""
        if batch % self.count:
            raise SystemExit(f"--batch {batch} cannot be shared by {self.count} processes: choose a multiple")
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def agreed(self, value: float) -> float:
        """The first one's value, for all: clocks differ, and who stopped alone would leave the others waiting."""
        if self.count == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.broadcast(told, 0)
        return float(told.item())

    def each_a_part(
        self, make: Callable[[torch.Tensor], torch.Tensor], tensors: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """`make`, which keeps shape and type, of every tensor: each process makes some, and all get all."""
        mine = [index % self.count == self.rank for index in range(len(tensors))]
        made = [make(one) if own else torch.zeros_like(one) for one, own in zip(tensors, mine, strict=True)]
        if self.count > 1:
            whole = torch.cat([one.flatten() for one in made])
            distributed.all_reduce(whole)
            parts = whole.split([one.numel() for one in tensors])
            made = [part.view_as(one) for part, one in zip(parts, tensors, strict=True)]
        return made

    def sharing(self, model: torch.nn.Module) -> torch.nn.Module:
        """The same weights, but a backward pass gives them the mean gradient of all processes."""
        return model if self.count == 1 else torch.nn.parallel.DistributedDataParallel(model)


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started; this one alone without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
