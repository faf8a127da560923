"""What texts say to a denoiser: one small structure, whatever the family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Encoded texts, one a row; cached, chosen, dropped and moved as one thing.

    Attributes:
        text: (n, tokens, width) hidden states of the text encoders.
        pooled: (n, width) one vector a text, for families that take one.
        lengths: (n,) int64 tokens that mean something, for families that are not shown the padding.
        tokens: (n, encoders, tokens) int64, for text encoders that learn: see `trainer.bases.encoders`.
    """

    text: Tensor
    pooled: Tensor | None = None
    lengths: Tensor | None = None
    tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: Tensor) -> Conditioning:
        """The rows at these (m,) indices."""
        return self._each(lambda part: part[rows])

    def to(self, to: torch.device | torch.dtype) -> Conditioning:
        """The same on that device, or with its vectors in that number format."""
        if isinstance(to, torch.device):
            return self._each(lambda part: part.to(to))
        return self._each(lambda part: part.to(to) if part.is_floating_point() else part)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        others = (self.pooled, self.lengths, self.tokens)
        return Conditioning(change(self.text), *(None if part is None else change(part) for part in others))


def joined_texts(parts: Sequence[Conditioning]) -> Conditioning:
    """All rows of all parts, in order; what one part has, every part has."""
    whole = []
    for name in ("pooled", "lengths", "tokens"):
        found = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        assert len(found) in (0, len(parts)), f"some texts have no {name}"
        whole.append(torch.cat(found) if found else None)
    return Conditioning(torch.cat([part.text for part in parts]), *whole)
