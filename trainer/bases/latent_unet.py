"""UNet latent diffusion with one CLIP text encoder: Stable Diffusion 1.x and the embedded portrait-tiny."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from trainer.bases.base import Tensor, best_device
from trainer.bases.loading import load_adapter
from trainer.errors import MissingPartError
from trainer.records import RGB

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["conv1", "conv2", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
ADAPTER = "likeness"


class LatentUnet:
    """One `StableDiffusionPipeline` in memory; see `trainer.bases.base.Base`.

    Weights stay in fp32; with `precision` bf16 the denoiser computes under autocast.
    """

    def __init__(self, name: str, folder: str, revision: str | None, precision: str) -> None:
        self.name, self.folder, self._revision, self._precision = name, folder, revision, precision
        self._device = best_device()
        self._pipeline = load_pipeline(folder, revision).to(self._device)
        self._pipeline.set_progress_bar_config(disable=True)
        for part in (self._pipeline.unet, self._pipeline.vae, self._pipeline.text_encoder):
            part.requires_grad_(False).eval()
        self.denoiser: torch.nn.Module = self._pipeline.unet.to(memory_format=torch.channels_last)
        config = self._pipeline.unet.config
        self.size_px = int(config.sample_size * self._pipeline.vae_scale_factor)
        self.alphas: Tensor = self._pipeline.scheduler.alphas_cumprod.clone()
        self.prompt_set = "attributes" if name == "portrait-tiny" else "scenes"
        self.prediction = str(self._pipeline.scheduler.config.prediction_type)
        self.sha256 = folder_sha256(Path(folder)) if Path(folder).is_dir() else str(revision)

    @torch.no_grad()
    def encode_images(self, rgb_u8: Sequence[RGB]) -> Tensor:
        """(n, channels, height, width) float32 latents: the posterior's mean, times the VAE's scaling factor."""
        vae = self._pipeline.vae
        rows = []
        for picture in rgb_u8:  # one by one: a row's bits must not depend on its neighbours
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float().div_(127.5).sub_(1)
            rows.append(vae.encode(pixels.to(self._device)).latent_dist.mode() * vae.config.scaling_factor)
        return torch.cat(rows).float().cpu()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, tokens, width) float32."""
        tokenizer = self._pipeline.tokenizer
        ids = tokenizer(
            list(texts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        rows = [self._pipeline.text_encoder(row[None].to(self._device)).last_hidden_state for row in ids]
        return torch.cat(rows).float().cpu()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise (arXiv 2006.11239, eq. 14) or the velocity (arXiv 2202.00512, section 4), as the base has it."""
        if self.prediction == "epsilon":
            return noise
        kept = self.alphas.to(latents.device)[timesteps].view(-1, 1, 1, 1)
        return kept.sqrt() * noise - (1 - kept).sqrt() * latents

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The UNet's output, float32, of the shape of `noisy`."""
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            output: Tensor = self.denoiser(noisy, timesteps, text).sample
        return output.float()

    def lora_targets(self, kind: str) -> list[str]:
        """Attention projections; with `attention+conv` also residual convolutions and feed-forward layers."""
        return ATTENTION if kind == "attention" else ATTENTION + CONVOLUTIONS

    def use_adapter(self, file: Path | None) -> None:
        """Load an adapter through diffusers' own loader, as any user would, or drop the one in use."""
        self._pipeline.unload_lora_weights()
        if file is None:
            return
        load_adapter(self._pipeline, file, ADAPTER, self.name)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
        on_picture: Callable[[int, RGB], None],
    ) -> None:
        """Pictures of `size_px`, each from its own seed's noise, drawn on the CPU so that devices agree."""
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
                pictures: Any = self._pipeline(
                    prompt=list(prompts[rows]),
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[rows]],
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    height=self.size_px,
                    width=self.size_px,
                    output_type="np",
                ).images
            for offset, picture in enumerate(pictures):
                on_picture(start + offset, (picture * 255).round().astype(np.uint8))

    def fresh(self) -> LatentUnet:
        """The same base, read from its files again."""
        return LatentUnet(self.name, self.folder, self._revision, self._precision)


def load_pipeline(folder: str, revision: str | None) -> Any:
    """The fp32 pipeline of a diffusers folder or hub name. Raises MissingPartError when it cannot be read."""
    for logging in (diffusers_logging, transformers_logging):  # our own progress says what is going on
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    options = {"safety_checker": None, "requires_safety_checker": False, "use_safetensors": True}
    load: Any = StableDiffusionPipeline.from_pretrained
    try:
        return load(folder, dtype=torch.float32, revision=revision, **options)
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingPartError(f"base {folder} cannot be loaded: {first}", "check base.path in the recipe") from None


def folder_sha256(folder: Path) -> str:
    """SHA-256, hex, over the relative names and bytes of every weight and config file."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".safetensors", ".json", ".txt"}:
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()
