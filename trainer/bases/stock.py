"""A stock diffusers pipeline in memory, as `trainer.bases.base.Base` wants it: what all families share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.bases.base import Tensor, best_device
from trainer.bases.conditioning import Conditioning, joined_texts
from trainer.bases.encoders import Tunable, tokens_of
from trainer.bases.files import Source, load_pipeline
from trainer.bases.loading import fold, load_adapter, unfold
from trainer.bases.offload import send_away
from trainer.bases.placing import modules_of, place, to_channels_last
from trainer.bases.quantize import quantize
from trainer.bases.schedule import schedule_of
from trainer.bases.tokens import clip_tokens
from trainer.bases.words import learn_word, loading_code, put_words, said_whole
from trainer.errors import UsageError
from trainer.layouts.words import Words
from trainer.records import RGB

ADAPTER = "likeness"
PATCH = 2  # latents a side of one transformer token, and of the coarsest UNet's smallest step
AT_ONCE_PX = 8 * 512**2  # pixels of the pictures that are made or asked about at once


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Latents on the denoiser's scale: the posterior's mean, and what the pipelines undo before decoding."""
    latents: Tensor = vae.encode(pixels).latent_dist.mode()
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        latents = (latents - channels(mean, latents)) / channels(std, latents)
    shift: float = getattr(config, "shift_factor", None) or 0.0
    scale: float = config.scaling_factor
    return (latents - shift) * scale


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pixels of -1 to 1, and a little beyond, of latents on the denoiser's scale: the inverse of `encoded`."""
    config = vae.config
    shift: float = getattr(config, "shift_factor", None) or 0.0
    latents = latents / config.scaling_factor + shift
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        latents = latents * channels(std, latents) + channels(mean, latents)
    pixels: Tensor = vae.decode(latents).sample
    return pixels


def channels(values: Sequence[float], like: Tensor) -> Tensor:
    """(1, channels, 1, 1) of one value each."""
    return torch.tensor(values).view(1, -1, 1, 1).to(like)


def guided(guidance: float, count: int) -> dict[str, Any]:
    """How most pipelines are told the guidance scale for `count` pictures."""
    return {"guidance_scale": guidance}


@dataclass(frozen=True, slots=True)
class Outline:
    """The published shape of a family's model, and how large what it reads is.

    Attributes:
        config: of the denoiser, as its class's `from_config` reads it, with `_class_name`.
        latent: (config) to the channels of a latent.
        words: (config, rows) to blank texts as large as encoded captions.
        encoders: parameters of the text encoders together.
        autoencoder: parameters of the VAE.
        latent_px: side of a latent in pixels.
    """

    config: Mapping[str, Any]
    latent: Callable[[Any], int]
    words: Callable[[Any, int], Conditioning]
    encoders: int
    autoencoder: int = 84_000_000
    latent_px: int = 8


@dataclass(frozen=True, slots=True)
class Family:
    """What sets a family of models apart.

    Attributes:
        pipeline: its stock diffusers class.
        denoiser: the name of the denoiser in that class, and so of its tensors in an adapter file.
        encode_text: (pipeline, text, device) to one row; the empty text as the pipeline's own guidance has it.
        predict: (denoiser, its config, noisy, times, texts) to the denoiser's answer, of the shape of `noisy`.
        targets: module name endings to adapt, by kind.
        prompt_set: `attributes` or `scenes`, the kind of prompts it understands.
        half: whether bf16 weights are held in bf16; else they stay fp32 and only the arithmetic is bf16.
        channels_last: whether the denoiser is faster in that memory format: convolutions are.
        options: for the class's `from_pretrained`.
        encode_pixels: (vae, pixels of -1 to 1) to latents on the denoiser's scale.
        decode_latents: (vae, latents on the denoiser's scale) to pixels of -1 to 1, and a little beyond.
        guide: (scale, pictures) to what the pipeline is told of the guidance.
        native_px: side of the pictures it was made for, where its files do not say.
        single_file: whether the class reads checkpoint files in their makers' layout.
        outline: what is published of the model, so that a plan needs no file of it.
        tokens: (pipeline, text) to how many tokens the text has and how many are read.
        tunable: its text encoders that can learn; None where language models read the texts.
    """

    pipeline: Any
    denoiser: str
    encode_text: Callable[[Any, str, torch.device], Conditioning]
    predict: Callable[[Any, Any, Tensor, Tensor, Conditioning], Tensor]
    targets: Mapping[str, list[str]]
    outline: Outline
    prompt_set: str = "scenes"
    half: bool = True
    channels_last: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    encode_pixels: Callable[[Any, Tensor], Tensor] = encoded
    decode_latents: Callable[[Any, Tensor], Tensor] = decoded
    guide: Callable[[float, int], dict[str, Any]] = guided
    native_px: int | None = None
    single_file: bool = False
    tokens: Callable[[Any, str], tuple[int, int]] = clip_tokens
    tunable: Tunable | None = None


def held_dtype(family: Family, precision: str) -> torch.dtype:
    """The number format that the frozen weights are held in."""
    return torch.bfloat16 if precision == "bf16" and family.half else torch.float32


def computed_dtype(precision: str) -> torch.dtype:
    """The number format of the arithmetic."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def answer_of(
    family: Family,
    denoiser: Any,
    precision: str,
    noisy: Tensor,
    times: Tensor,
    text: Conditioning,
    encoders: Mapping[str, Any],
) -> Tensor:
    """What the denoiser says, float32, of the shape of `noisy`; `times` as it is told them.

    Where there are `encoders` that learn, they read the text's tokens first.
    """
    if encoders and family.tunable:
        text = family.tunable.encode(encoders, text)
    dtype = held_dtype(family, precision)
    with torch.autocast(noisy.device.type, torch.bfloat16, enabled=precision == "bf16"):
        answer = family.predict(denoiser, denoiser.config, noisy.to(dtype), times, text.to(dtype))
    return answer.float()


class StockBase:
    """One pipeline of one family; see `trainer.bases.base.Base` for what its attributes and methods mean."""

    def __init__(
        self,
        name: str,
        family: Family,
        source: Source,
        precision: str,
        size_px: int | None,
        quantized: str = "none",
        offload: bool = False,
    ) -> None:
        self.name, self.folder = name, source.path
        self._family, self._source, self._asked_px = family, source, size_px
        self._quantized, self._offload = quantized, offload
        self._precision, self._device = precision, best_device()
        self._dtype = held_dtype(family, precision)
        if source.single and not family.single_file:
            raise UsageError(f"base {name} is not read from a single file", "set base.path to a diffusers folder")
        self._plain: list[tuple[torch.nn.Module, torch.Tensor]] = []
        self._take_words_out: Callable[[], None] = lambda: None
        self.text_encoders: Mapping[str, torch.nn.Module] = {}
        self._decoder: Any = None
        self._pipeline = load_pipeline(family.pipeline, source, self._dtype, **family.options)
        self._pipeline.set_progress_bar_config(disable=True)
        for part in modules_of(self._pipeline).values():
            part.requires_grad_(False).eval()
        self.component = family.denoiser
        self.denoiser: torch.nn.Module = getattr(self._pipeline, family.denoiser)
        if quantized != "none":
            quantize(self.denoiser, quantized, computed_dtype(precision), self._device)
        if family.channels_last:
            to_channels_last(self.denoiser)
        if offload:
            send_away(self.denoiser)
        self._config = self.denoiser.config
        self.size_px = size_px or family.native_px or _native_px(self._pipeline, self._config)
        token_px = PATCH * self._pipeline.vae_scale_factor
        if self.size_px % token_px:
            raise UsageError(f"base.size_px: {self.size_px} is no multiple of {token_px}, as base {name} needs")
        self.step_px = max(token_px, self._pipeline.vae_scale_factor * 2 ** halvings(self._config))
        self.at_once = max(1, min(8, AT_ONCE_PX // self.size_px**2))
        # Of the square: a bucket has at most as many tokens, and its noise levels are the same ones, drawn as often.
        self.schedule = schedule_of(self._pipeline.scheduler, (self.size_px // token_px) ** 2)
        self.prompt_set = family.prompt_set
        place(self._pipeline, self._device)

    @cached_property
    def sha256(self) -> str:
        """Over every weight and config file; computed when first asked for, since large bases take a minute."""
        return self._source.sha256()

    @torch.no_grad()
    def encode_images(self, rgb_u8: Sequence[RGB]) -> Tensor:
        """(n, channels, height, width) float32 latents: the posterior's mean on the scale of the denoiser."""
        vae = self._pipeline.vae
        rows = []
        for picture in rgb_u8:  # one by one: a row's bits must not depend on its neighbours
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float().div_(127.5).sub_(1)
            rows.append(self._family.encode_pixels(vae, pixels.to(self._device)))
        return torch.cat(rows).float().cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """(n, 3, height, width) float32 pixels of -1 to 1, and a little beyond; gradients pass through."""
        vae = self._decoder if self._pipeline is None else self._pipeline.vae
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            return self._family.decode_latents(vae, latents).float()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Conditioning:
        """One row a text, in the number format of the text encoders."""
        rows = [self._family.encode_text(self._pipeline, text, self._device) for text in texts]
        whole = joined_texts(rows).to(torch.device("cpu"))
        if not self.text_encoders or not self._family.tunable:
            return whole
        return replace(whole, tokens=tokens_of(self._family.tunable, self._pipeline, texts))

    def tune_texts(self) -> None:
        """Let the CLIP text encoders learn: `encode_texts` keeps tokens, and `predict` reads those anew."""
        if self._family.tunable is None:
            raise UsageError(
                f"base {self.name} reads texts with a language model, which is not tuned",
                "set fit.text_encoder_rate to null and fit.new_tokens to 0",
            )
        self.text_encoders = {name: getattr(self._pipeline, name) for name in self._family.tunable.tokenizers}

    def learn_word(self, word: str, vectors: int, like: str) -> None:
        """Teach every CLIP text encoder the word; see `words.learn_word`."""
        self.tune_texts()
        if vectors > 1 and not said_whole(self._pipeline):
            raise UsageError(f"prompts of base {self.name} can say a word of one vector", "set fit.new_tokens to 1")
        for name, tokenizer in self._family.tunable.tokenizers.items() if self._family.tunable else ():
            learn_word(getattr(self._pipeline, tokenizer), self.text_encoders[name], word, vectors, like)

    def count_tokens(self, text: str) -> tuple[int, int]:
        """Tokens of the text, and how many of them are read."""
        return self._family.tokens(self._pipeline, text)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The denoiser's output, float32, of the shape of `noisy`."""
        times = self.schedule.times.to(timesteps.device)[timesteps]
        return answer_of(self._family, self.denoiser, self._precision, noisy, times, text, self.text_encoders)

    def lora_targets(self, kind: str) -> list[str]:
        """Attention projections; with `attention+conv` also feed-forward layers and the convolutions of UNets."""
        return self._family.targets[kind]

    def release(self, decoder: bool = False, recompute: bool = False) -> None:
        """Free everything but the denoiser, what learns and, where asked for, the VAE's decoder."""
        self._pipeline.remove_all_hooks()
        if decoder:
            self._decoder = decoder_of(self._pipeline.vae, recompute).to(self._device)
        self._pipeline = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        for part in (self.denoiser, *self.text_encoders.values()):
            part.to(self._device)

    def use_adapter(self, file: Path | None, folded: bool = False) -> None:
        """Load an adapter through diffusers' own loader, as any user would, or drop the one in use."""
        unfold(self._plain)
        self._plain = []
        self._pipeline.unload_lora_weights()
        self._take_words_out()
        self._take_words_out = lambda: None
        if file is None:
            return
        words = load_adapter(self._pipeline, file, ADAPTER, self.name)
        if words:
            self._take_words_out = put_words(self._pipeline, self._family.tunable, words, file, self.name)
            place(self._pipeline, self._device)
        if folded:
            self._plain = fold(self._pipeline, ADAPTER)

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
                    **self._family.guide(guidance, len(prompts[rows])),
                    height=self.size_px,
                    width=self.size_px,
                    output_type="np",
                ).images
            for offset, picture in enumerate(pictures):
                on_picture(start + offset, (picture * 255).round().astype(np.uint8))

    def word_code(self, file: Path, words: Words) -> list[str]:
        """How a user loads the vectors of the word from the file into the stock pipeline; nothing without a word."""
        ((word, own),) = words.items() if words else [("", {})]
        return loading_code(self._pipeline, file, word, len(own)) if own else []

    def fresh(self) -> StockBase:
        """The same base, read from its files again."""
        chosen = self._precision, self._asked_px, self._quantized, self._offload
        return StockBase(self.name, self._family, self._source, *chosen)


def halvings(config: Any) -> int:
    """How often a UNet halves the sides of its latents; 0 for a transformer."""
    return max(0, len(getattr(config, "block_out_channels", ())) - 1)


def decoder_of(vae: Any, recompute: bool) -> Any:
    """The VAE without its encoder; with `recompute` it keeps few activations, where its class can do that."""
    vae.encoder = torch.nn.Identity()
    if recompute and vae._supports_gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    return vae


def _native_px(pipeline: Any, config: Any) -> int:
    side = getattr(pipeline, "default_sample_size", None) or config.sample_size
    return int(side * pipeline.vae_scale_factor)
