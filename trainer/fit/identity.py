"""The identity loss: how unlike the sample the face is in the picture that a denoiser's answer stands for.

One minus the cosine of the two faces' embeddings, at little noise alone, after PortraitBooth (arXiv 2312.06354): at
much of it the answer stands for a blur (PuLID, arXiv 2404.16022). What is compared with is the sample itself, not the
mean of the person's: pose, light and expression move an embedding too, and towards a mean look every picture would have
to leave its own. So a picture that is its sample costs nothing, and the two losses want the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.checkpoint import checkpoint

from trainer.bases.schedule import Schedule
from trainer.errors import IntegrityError
from trainer.faces.align import mirrored_landmarks
from trainer.faces.base import DifferentiableEmbedder
from trainer.fit.objective import NO_VIEW, Examples
from trainer.fit.settings import Settings
from trainer.records import RGB, Floats, Sample

Tensor = torch.Tensor


class Decodes(Protocol):
    """The part of a base that makes a picture of an answer."""

    @property
    def schedule(self) -> Schedule:
        """As of `Base`."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """As of `Base`."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the samples' faces are, and where.

    Attributes:
        landmarks: (5, 2) pixels of each of the cache's views, in its order.
        wanted: (views, d) unit vectors of their faces.
        weight, signal: as `fit.identity_weight` and `fit.identity_signal`.
        recompute: whether a row's activations are computed again in the backward pass.
    """

    base: Decodes
    eyes: DifferentiableEmbedder
    landmarks: Sequence[Floats]
    wanted: Tensor
    weight: float
    signal: float
    recompute: bool

    def losses(self, given: Examples, answer: Tensor) -> Tensor:
        """(n,) `weight` times 1 - cosine, 0 to 2, of each clear row; 0 for the others and for the prior's.

        Rows are worked through one by one: pictures are large, and a row's bits must not depend on its neighbours.
        """
        clear = (given.view != NO_VIEW) & (self.base.schedule.signal_share(given.timesteps) >= self.signal)
        losses = list(answer.new_zeros(len(answer)))
        for index in clear.nonzero().flatten().tolist():
            row = slice(index, index + 1)
            latents = self.base.schedule.denoised(given.noisy[row], answer[row], given.timesteps[row])
            losses[index] = self.weight * self._of_row(latents, int(given.view[index]))
        return torch.stack(losses)

    def _of_row(self, latents: Tensor, view: int) -> Tensor:
        if not self.recompute:
            return self._unlike(latents, view)
        unlike: Tensor = checkpoint(self._unlike, latents, view, use_reentrant=False, preserve_rng_state=False)
        return unlike

    def _unlike(self, latents: Tensor, view: int) -> Tensor:
        pixels = (self.base.decode(latents)[0].clamp(-1, 1) + 1) * 127.5
        return 1 - self.eyes.embed(pixels, self.landmarks[view]) @ self.wanted[view]


def build_identity(
    samples: Sequence[Sample], base: Decodes, eyes: DifferentiableEmbedder | None, s: Settings, device: torch.device
) -> Identity | None:
    """Look at every sample, and at its mirror image where `s.mirror` is on, in the order of the cache.

    None where the settings ask for no such loss. Raises IntegrityError for samples prepared without landmarks.
    """
    if s.identity_weight is None:
        return None
    assert eyes is not None, "who asks for the loss says through whose eyes"
    eyes, landmarks, wanted = eyes.to(device), [], []
    for sample in samples:
        if sample.landmarks is None:
            raise IntegrityError(f"{sample.path.parent} holds samples without landmarks", "run again with --fresh")
        rgb_u8 = np.asarray(Image.open(sample.path).convert("RGB"))
        height, width = rgb_u8.shape[:2]
        own = sample.landmarks * np.array([width, height], np.float32)
        views = [(rgb_u8, own), (rgb_u8[:, ::-1], mirrored_landmarks(own, width))]
        for picture, points in views[: 1 + s.mirror]:
            landmarks.append(points)
            wanted.append(_seen(picture, points, eyes, device))
    return Identity(
        base, eyes, landmarks, torch.stack(wanted), s.identity_weight, s.identity_signal, s.gradient_checkpointing
    )


@torch.no_grad()
def _seen(rgb_u8: RGB, landmarks: Floats, eyes: DifferentiableEmbedder, device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.array(rgb_u8)).permute(2, 0, 1).float()
    return eyes.embed(pixels.to(device), landmarks)
