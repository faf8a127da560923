"""The running average of a training's weights, which is what is published."""

from __future__ import annotations

import torch

SHORTEST, LONGEST = 10.0, 1000.0  # steps that the average remembers


def averaged(model: torch.nn.Module, share: float) -> torch.optim.swa_utils.AveragedModel:
    """An exponential average that remembers about `share` of the steps made so far, so that it forgets the start."""

    @torch.no_grad()
    def update(average: list[torch.Tensor], values: list[torch.Tensor], made: torch.Tensor | int) -> None:
        remembered = min(LONGEST, max(SHORTEST, share * int(made)))
        torch._foreach_lerp_(average, values, 1 / remembered)

    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=update)
