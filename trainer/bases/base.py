"""What a tunable diffusion model must do, and the one place that knows which families exist."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.bases.conditioning import Conditioning
from trainer.bases.schedule import Schedule
from trainer.errors import MissingPartError, UsageError
from trainer.layouts.words import Words
from trainer.records import RGB

# The file of each family and the name it has there; a file is imported when its family is asked for.
FAMILIES = {
    "portrait-tiny": ("latent_unet", "PORTRAIT_TINY"),
    "sd15": ("latent_unet", "SD15"),
    "sdxl": ("sdxl", "SDXL"),
    "sd3": ("sd3", "SD3"),
    "flux1": ("flux", "FLUX1"),
    "flux2-klein": ("flux2", "FLUX2_KLEIN"),
    "z-image": ("z_image", "Z_IMAGE"),
    "qwen-image": ("qwen_image", "QWEN_IMAGE"),
}
EMBEDDED = Path(__file__).resolve().parent / "portrait_tiny"
Tensor = torch.Tensor


class Base(Protocol):
    """A diffusion model in memory, with flat inputs and outputs.

    Attributes:
        name: family, for lock and scorecard.
        folder: diffusers files, a hub name, or a checkpoint file.
        size_px: side of the square pictures it makes.
        step_px: what the sides of any other pictures that it learns from are multiples of.
        at_once: how many of them can be made or asked about at once.
        denoiser: the module that adapters are put on.
        component: what the family's pipeline calls it, `unet` or `transformer`: adapter files begin names with it.
        text_encoders: those that learn, by the pipeline's names for them; empty until `tune_texts`.
        prompt_set: `attributes` or `scenes`, the kind of prompts it understands.
        schedule: how it mixes pictures with noise, and what it was trained to answer.
    """

    name: str
    folder: str
    size_px: int
    step_px: int
    at_once: int
    denoiser: torch.nn.Module
    component: str
    text_encoders: Mapping[str, torch.nn.Module]
    prompt_set: str
    schedule: Schedule

    @property
    def sha256(self) -> str:
        """Over every weight file; the commit for hub bases."""
        ...

    def encode_images(self, rgb_u8: Sequence[RGB]) -> Tensor:
        """(n, channels, height, width) float32 latents of unit scale."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(n, 3, height, width) float32 pixels of -1 to 1, and a little beyond, of latents as `encode_images` has them.

        Gradients pass through.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> Conditioning:
        """What each text says to the denoiser; the empty one as guidance has it when the base makes pictures."""
        ...

    def tune_texts(self) -> None:
        """Let the text encoders learn: from now on texts keep their tokens, which `predict` encodes anew each time.

        Gradients then reach the encoders. Raises UsageError for a base whose encoders are language models.
        """
        ...

    def learn_word(self, word: str, vectors: int, like: str) -> None:
        """Give the text encoders `vectors` new rows for this word, which start at those of `like`, and `tune_texts`.

        Raises UsageError for a word that the base has a token of, or more vectors than its prompts can say.
        """
        ...

    def count_tokens(self, text: str) -> tuple[int, int]:
        """How many tokens the text has, marks included, and how many the encoder that reads furthest takes in."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The denoiser's output, float32, of the shape of `noisy`; (n,) `timesteps` are levels of `schedule`."""
        ...

    def lora_targets(self, kind: str) -> list[str]:
        """Module name endings to adapt, for `attention` or `attention+conv`."""
        ...

    def release(self, decoder: bool = False, recompute: bool = False) -> None:
        """Free everything but the denoiser and what learns; from now on only `predict` works, and with it `decode`.

        `decode` only with `decoder`; with `recompute` it computes activations again in the backward pass.
        """
        ...

    def use_adapter(self, file: Path | None, folded: bool = False) -> None:
        """Sample with this adapter file from now on, or with none. Raises IntegrityError when keys are left over.

        With `folded` it is added to fp32 weights under it until the next call: faster, and the same but for rounding.
        """
        ...

    def word_code(self, file: Path, words: Words) -> list[str]:
        """Lines of Python that load the vectors of a file into `pipe`, of the stock pipeline; [] without words."""
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


def get_base(
    name: str,
    path: str | None = None,
    revision: str | None = None,
    precision: str = "fp32",
    config: str | None = None,
    size_px: int | None = None,
    quantize: str = "none",
    offload: bool = False,
) -> Base:
    """Load a base.

    Args:
        name: one of `FAMILIES`.
        path: diffusers folder, hub name or .safetensors checkpoint; None: the embedded files.
        revision: hub commit.
        precision: `fp32` or `bf16`.
        config: diffusers folder or hub name that describes a .safetensors checkpoint.
        size_px: side of the pictures; None: what the base was made for.
        quantize: `none`, or the format of the denoiser's linear layers: `int8` or `nf4`.
        offload: the denoiser's blocks stay in main memory, and their layers come to the device one by one.

    Raises:
        UsageError: for an unknown family, a pickle, or a size that the family cannot make.
        MissingPartError: where its files, or the library that quantizes, are not there.
    """
    if name not in FAMILIES:
        raise UsageError(f"no base called {name!r}", f"use one of: {', '.join(FAMILIES)}")
    if path is None and name != "portrait-tiny":
        raise UsageError(f"base {name} needs base.path", "set base.path to a diffusers folder or a hub name")
    if path is None and not (EMBEDDED / "model_index.json").is_file():
        raise MissingPartError(f"{EMBEDDED} holds no model", "reinstall likeness-trainer: its files are not whole")
    from trainer.bases.files import Source
    from trainer.bases.stock import StockBase

    source = Source(path or str(EMBEDDED), revision, config)
    return StockBase(name, family_of(name), source, precision, size_px, quantize, offload)


def family_of(name: str) -> Any:
    """The `stock.Family` of one of `FAMILIES`."""
    module, family = FAMILIES[name]
    return getattr(importlib.import_module(f"trainer.bases.{module}"), family)


def best_device() -> torch.device:
    """CUDA, then Apple's GPU, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def machine() -> str:
    """What computes here, as far as it decides how sums are rounded: `cuda NVIDIA H100 PCIe`, `mps`, `cpu AVX2`."""
    device = best_device()
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return device.type if device.type != "cpu" else f"cpu {torch.backends.cpu.get_cpu_capability()}"


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
