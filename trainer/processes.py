"""Several processes of one command, as `accelerate launch` starts them: the first does everything, the others fit.

The others wait for the first in a group of their own. Its words go over gloo, however the gradients travel, and it may
take its time before the fit. After the fit they are done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from trainer.errors import Interrupted

LAUNCHED = "LOCAL_RANK"  # WORLD_SIZE alone may be left over from a cluster's own scheduler
LONGEST_WAIT = timedelta(days=30)  # photos may take hours to look at; gloo would give up after 30 minutes


def count() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if LAUNCHED in os.environ else 1


def index() -> int:
    """Which of them this is; the first, 0, is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0")) if LAUNCHED in os.environ else 0


class Processes:
    """The first one's side: it works inside `with`, and tells the others once what to fit, or that they can go.

    Alone, or outside `with`, nobody is told anything.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def __enter__(self) -> Processes:
        if count() > 1:
            self._group = _join()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.call(None)
        except Interrupted:
            if kind is None:
                raise

    def call(self, task: dict[str, str] | None) -> None:
        """Tell the others what to fit; None: nothing. Only the first call is heard. Raises Interrupted: one is gone."""
        if self._group is None:
            return
        import torch

        said = torch.frombuffer(bytearray(json.dumps(task).encode()), dtype=torch.uint8)
        group, self._group = self._group, None
        with saying_lost():
            torch.distributed.broadcast(torch.tensor([len(said)]), 0, group)
            torch.distributed.broadcast(said, 0, group)
        if task is None:
            torch.distributed.destroy_process_group()


def awaited() -> dict[str, str] | None:
    """The others' side: what the first wants them to fit, or None. Raises Interrupted where it ended without a word."""
    import torch

    group, length = _join(), torch.zeros(1, dtype=torch.long)
    with saying_lost():
        torch.distributed.broadcast(length, 0, group)
        said = torch.empty(int(length), dtype=torch.uint8)
        torch.distributed.broadcast(said, 0, group)
    task: dict[str, str] | None = json.loads(bytes(said.tolist()))
    if task is None:
        torch.distributed.destroy_process_group()
    return task


@contextmanager
def saying_lost() -> Iterator[None]:
    """Around what all processes do together: Interrupted where one of them is gone."""
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL, which have no class for it
        raise Interrupted(
            "another process of this run has ended; every finished step is kept",
            "see what it said, and run the same command again: it resumes",
        ) from error


def _join() -> Any:
    """Meet the other processes; the group to talk in."""
    import torch
    from accelerate import PartialState

    cpu = not torch.cuda.is_available()  # unasked accelerate takes processes without a GPU for one each
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with saying_lost():
        PartialState(cpu=cpu)
        return torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
