"""One adapted layer, whatever layout it came in, and what it makes of the base's weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """One adapted layer: its weight grows by `alpha / rank * up @ down` (arXiv 2106.09685, section 4.1).

    Attributes:
        down: (rank, in) or, for a convolution, (rank, in, height, width).
        up: (out, rank) or (out, rank, 1, 1).
        lengths: of a DoRA, to which the rows of the grown weight are stretched (arXiv 2402.09353, eq. 5): (out, 1) or
            (out, 1, 1, 1); (1, in) or (1, in, 1, 1) where they are of its columns. None in a plain LoRA.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    lengths: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return int(self.down.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the layer's weight."""
        return int(self.up.shape[0]), int(self.down.shape[1])


Layers = dict[str, Layer]


def update_of(layer: Layer) -> torch.Tensor:
    """What the layer adds to its weight before any stretching, float32, (out, in) or (out, in, height, width)."""
    product = layer.up.flatten(1).float() @ layer.down.flatten(1).float()
    return (product * (layer.alpha / layer.rank)).view(layer.up.shape[0], *layer.down.shape[1:])


def grown(layer: Layer, weight: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The weight with `scale` of the layer in it, float64, of the update's shape.

    As PEFT has it, the scale acts on the update alone: a DoRA's rows get its lengths at every scale.
    """
    whole = weight.double() + update_of(layer).double() * scale
    if layer.lengths is None:
        return whole
    across = tuple(side for side, count in enumerate(layer.lengths.shape) if count == 1)
    sizes: torch.Tensor = torch.linalg.vector_norm(whole, dim=across, keepdim=True).clamp_min(
        torch.finfo(torch.float64).tiny
    )
    stretched: torch.Tensor = layer.lengths.double() * (whole / sizes)
    return stretched
