"""What texts say to a denoiser: one small structure, whatever the family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Encoded texts, one a row; cached, chosen, dropped and moved as one thing.

    Attributes:
        text: (n, tokens, width) hidden states of the text encoders.
        pooled: (n, width) one vector a text, for families that take one.
    """

    text: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: Tensor) -> Conditioning:
        """The rows at these (m,) indices."""
        return Conditioning(self.text[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, to: torch.device | torch.dtype) -> Conditioning:
        """The same on that device, or in that number format."""
        return Conditioning(self.text.to(to), None if self.pooled is None else self.pooled.to(to))


def joined_texts(parts: Sequence[Conditioning]) -> Conditioning:
    """All rows of all parts, in order; either every part has a pooled vector or none."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(torch.cat([part.text for part in parts]), torch.cat(pooled) if pooled else None)
