"""What a tunable diffusion model must do, and the one place that knows which families exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.errors import MissingPartError, UsageError
from trainer.records import RGB

FAMILIES = ("portrait-tiny", "sd15")
EMBEDDED = Path(__file__).resolve().parent / "portrait_tiny"
Tensor = torch.Tensor


class Base(Protocol):
    """A diffusion model in memory, with flat inputs and outputs.

    Attributes:
        name: family, for lock and scorecard.
        folder: diffusers files, or a hub name.
        sha256: over every weight file; the hub revision for hub bases.
        size_px: side of the square pictures it makes.
        denoiser: the module that adapters are put on.
        prediction: `epsilon` or `v_prediction`, what the denoiser was trained to return.
        prompt_set: `attributes` or `scenes`, the kind of prompts it understands.
        alphas: (steps,) cumulative signal variances of the noise schedule, falling from 1 to 0.
    """

    name: str
    folder: str
    sha256: str
    size_px: int
    denoiser: torch.nn.Module
    prediction: str
    prompt_set: str
    alphas: Tensor

    def encode_images(self, rgb_u8: Sequence[RGB]) -> Tensor:
        """(n, channels, height, width) float32 latents of unit scale."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, tokens, width) float32 text embeddings."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What `predict` should return for these latents, noise and (n,) timesteps."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The denoiser's output, float32, of the shape of `noisy`."""
        ...

    def lora_targets(self, kind: str) -> list[str]:
        """Module name endings to adapt, for `attention` or `attention+conv`."""
        ...

    def use_adapter(self, file: Path | None) -> None:
        """Sample with this adapter file from now on, or with none. Raises IntegrityError when keys are left over."""
        ...

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
        on_picture: Callable[[int, RGB], None],
    ) -> None:
        """Make one picture for each (prompt, seed) pair and hand it over with its index."""
        ...

    def fresh(self) -> Base:
        """The same base, read from its files again."""
        ...


def get_base(name: str, path: str | None = None, revision: str | None = None, precision: str = "fp32") -> Base:
    """Load a base. Raises UsageError for an unknown family, MissingPartError where its files are not there."""
    if name not in FAMILIES:
        raise UsageError(f"no base called {name!r}", f"use one of: {', '.join(FAMILIES)}")
    if path is None and name != "portrait-tiny":
        raise UsageError(f"base {name} needs base.path", "set base.path to a diffusers folder or a hub name")
    folder = str(EMBEDDED) if path is None else path
    if path is None and not (EMBEDDED / "model_index.json").is_file():
        raise MissingPartError(f"{EMBEDDED} holds no model", "reinstall likeness-trainer: its files are not whole")
    from trainer.bases.latent_unet import LatentUnet

    return LatentUnet(name, folder, revision, precision)


def best_device() -> torch.device:
    """CUDA, then Apple's GPU, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_precision(asked: str, device: torch.device | None = None) -> str:
    """`bf16` or `fp32`; `auto` takes bf16 only where the hardware computes it natively."""
    if asked != "auto":
        return asked
    device = device or best_device()
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    cpu: Any = torch.cpu
    native = device.type == "cpu" and (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return "bf16" if native else "fp32"
