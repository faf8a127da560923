"""The moving average of the adapter's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

Tensor = torch.Tensor


def start_averages(weights: Mapping[str, Tensor], decay: float | None) -> dict[str, Tensor]:
    """Copies of the weights, the first average; nothing where no decay is asked for."""
    return {} if decay is None else {name: tensor.detach().clone() for name, tensor in weights.items()}


@torch.no_grad()
def move_averages(averages: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, step: int) -> None:
    """Move the averages towards the weights after `step` steps (arXiv 2006.11239, appendix B).

    At first less is kept, (1 + step) / (10 + step), or the start would weigh on a short fit.
    """
    kept = min(decay, (1 + step) / (10 + step))
    for name, average in averages.items():
        average.lerp_(weights[name], 1 - kept)


@contextmanager
def averaged(weights: Mapping[str, Tensor], averages: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the averages, where there are any, stand in the weights' places."""
    own = {name: weights[name].detach().clone() for name in averages}
    with torch.no_grad():
        for name, average in averages.items():
            weights[name].copy_(average)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                weights[name].copy_(tensor)
