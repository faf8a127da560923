"""Muon: momentum whose every matrix is made orthogonal before it is added (Jordan et al. 2024, arXiv 2502.16982).

`torch.optim.Muon` takes matrices alone and computes in bf16, which CPUs without it do slowly. This one also takes the
weights of convolutions, a row an output channel, and computes in bf16 only where asked for or where the hardware does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from processes import ALONE, Processes

from trainer.bases.base import resolve_precision

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Newton-Schulz, as in torch.optim.Muon
SIZE = 0.2  # root mean square of an update over the rate: about AdamW's, so that both take one rate


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions or more; `lr` and `weight_decay` as for AdamW.

    `processes` that train together share out the matrices.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        weight_decay: float = 0.01,
        processes: Processes = ALONE,
        precision: str = "auto",
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.processes, self.precision = processes, precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step along the orthogonal momentum."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            ahead = [self._ahead(weight).flatten(1) for weight in weights]
            for weight, update in zip(weights, self._orthogonal(ahead), strict=True):
                scale = SIZE * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-group["lr"] * scale)

    def _orthogonal(self, matrices: list[torch.Tensor]) -> list[torch.Tensor]:
        """`orthogonal` of each; on a GPU, which takes as long for one small one, those of one shape at once."""
        groups: dict[object, list[int]] = {}
        for index, matrix in enumerate(matrices):
            groups.setdefault(matrix.shape if matrix.is_cuda else index, []).append(index)
        stacks = [torch.stack([matrices[index] for index in group]) for group in groups.values()]
        made = self.processes.each_a_part(partial(orthogonal, precision=self.precision), stacks)
        order = [index for group in groups.values() for index in group]
        found = dict(zip(order, (one for stack in made for one in stack), strict=True))
        return [found[index] for index in range(len(matrices))]

    def _ahead(self, weight: torch.Tensor) -> torch.Tensor:
        """Nesterov's momentum of a weight, this step's gradient in it."""
        momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        momentum.lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(momentum, MOMENTUM)


def orthogonal(matrices: torch.Tensor, precision: str = "auto") -> torch.Tensor:
    """(k, n, m) matrices with all their singular values made about 1, 0.7 to 1.2 (Newton-Schulz, five rounds)."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT, precision).mT
    x = matrices.to(torch.bfloat16 if resolve_precision(precision, matrices.device) == "bf16" else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)
