"""A base without its weights: its denoiser by shape alone, on which memory and arithmetic can be counted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextConfig

from trainer.bases.base import EMBEDDED, Tensor, family_of
from trainer.bases.conditioning import Conditioning
from trainer.bases.quantize import blank, is_quantized, sketch_quantized
from trainer.bases.schedule import FLOW, Schedule
from trainer.bases.stock import AT_ONCE_PX, Family, answer_of, computed_dtype, held_dtype
from trainer.bases.words import NewRows
from trainer.errors import MissingPartError

# Of diffusers' and transformers' parts; other names are variants, such as model.fp16.safetensors.
WEIGHTS = r"(model|diffusion_pytorch_model)(-\d{5}-of-\d{5})?\.safetensors"
LEVELS, NATIVE_PX = 1000, 1024  # the size is for denoisers whose configuration does not say one


@dataclass(frozen=True, slots=True)
class Sketch:
    """What fit reads of a `trainer.bases.base.Base`, whose meanings these attributes have, on tensors without data.

    Attributes:
        described: where the shapes come from, in words.
        whole: bytes of the denoiser's weights before any of them is quantized.
        text_encoders: those that learn, by name.
        beside: bytes of the text encoders and the VAE, which are there until the first step.
    """

    name: str
    size_px: int
    at_once: int
    denoiser: Any
    component: str
    schedule: Schedule
    described: str
    whole: int
    beside: int
    precision: str
    family: Family
    text_encoders: dict[str, Any] = field(default_factory=dict)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """As the base's own; the times are of no meaning."""
        return answer_of(
            self.family, self.denoiser, self.precision, noisy, self.schedule.times[timesteps], text, self.text_encoders
        )

    def learn_word(self, word: str, vectors: int) -> None:
        """As the base's own, with blank rows."""
        for encoder in self.text_encoders.values():
            table = encoder.get_input_embeddings()
            rows = torch.empty(vectors, table.weight.shape[1], device="meta")
            encoder.set_input_embeddings(NewRows(table, word, len(table.weight), rows))

    def lora_targets(self, kind: str) -> list[str]:
        """As the base's own."""
        return self.family.targets[kind]

    def latents(self, rows: int) -> Tensor:
        """Blank latents of this many pictures."""
        side = self.size_px // self.family.outline.latent_px
        return torch.zeros(rows, self.family.outline.latent(self.denoiser.config), side, side)

    def words(self, rows: int) -> Conditioning:
        """As many blank texts, with tokens where text encoders learn."""
        blank = self.family.outline.words(self.denoiser.config, rows)
        if not self.text_encoders:
            return blank
        longest = max(encoder.config.max_position_embeddings for encoder in self.text_encoders.values())
        return replace(blank, tokens=torch.zeros(rows, len(self.text_encoders), longest, dtype=torch.long))

    def fill(self, device: torch.device) -> None:
        """Give every parameter and buffer a place on the device, in the memory format that the base has there."""
        parts = (self.denoiser, *self.text_encoders.values())
        for module in [module for part in parts for module in part.modules()]:
            if is_quantized(module):
                blank(module, device)
            for name, old in module._parameters.items():
                if old is not None and not (is_quantized(module) and name == "weight"):
                    new = self._place(old, device)
                    module._parameters[name] = torch.nn.Parameter(new, requires_grad=old.requires_grad)
            for name, old in module._buffers.items():
                if old is not None:
                    module._buffers[name] = self._place(old, device)

    def _place(self, old: Tensor, device: torch.device) -> Tensor:
        new = torch.empty(old.shape, dtype=old.dtype, device=device)
        as_pictures = self.family.channels_last and new.ndim == 4
        return new.contiguous(memory_format=torch.channels_last) if as_pictures else new


def sketch(
    name: str,
    path: str | None = None,
    revision: str | None = None,
    precision: str = "fp32",
    config: str | None = None,
    size_px: int | None = None,
    quantize: str = "none",
    tune_texts: bool = False,
) -> Sketch:
    """Draw a base from its configuration; arguments as of `trainer.bases.base.get_base`. Nothing is brought.

    With `tune_texts` its text encoders learn, as after the method of that name.

    Read from the folder, from what the hub's client has kept, or from what is published of the family, in this order.

    Raises MissingPartError for a configuration that is no denoiser's.
    """
    family = family_of(name)
    places = [place for place in (path or str(EMBEDDED), config) if place]
    found, described = _described(family.denoiser, family.outline.config, places, revision)
    try:
        with torch.device("meta"):
            denoiser = getattr(diffusers, str(found["_class_name"])).from_config(dict(found))
        side = size_px or int(getattr(denoiser.config, "sample_size", None) or 0) * family.outline.latent_px
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise MissingPartError(f"{described} describes no denoiser: {error}", "check base.path in the recipe") from None
    denoiser.to(held_dtype(family, precision)).requires_grad_(False)
    whole = sum(tensor.numel() * tensor.element_size() for tensor in denoiser.parameters())
    if quantize != "none":
        sketch_quantized(denoiser, quantize, computed_dtype(precision))
    side = side or NATIVE_PX
    size = held_dtype(family, precision).itemsize
    encoders, autoencoder = _parts_beside(family, places)
    return Sketch(
        name=name,
        size_px=side,
        at_once=max(1, min(8, AT_ONCE_PX // side**2)),
        denoiser=denoiser,
        component=family.denoiser,
        schedule=Schedule(torch.rand(LEVELS), torch.rand(LEVELS), torch.rand(LEVELS), FLOW),
        described=described,
        whole=whole,
        beside=encoders * size + autoencoder * 4,
        precision=precision,
        family=family,
        text_encoders=_encoders(family, places, revision, precision) if tune_texts else {},
    )


def _parts_beside(family: Family, places: list[str]) -> tuple[int, int]:
    """Parameters of the text encoders and of the VAE: of the files of a folder here, else as published."""
    for place in places:
        folders = [folder for folder in Path(place).glob("*/") if folder.name.startswith("text_encoder")]
        counts = sum(map(_parameters, folders)), _parameters(Path(place) / "vae")
        if all(counts):
            return counts
    return family.outline.encoders, family.outline.autoencoder


def _parameters(folder: Path) -> int:
    """Of the weights that are loaded from a part's folder; 0 where there are none to read."""
    total = 0
    for file in folder.glob("*.safetensors"):
        if re.fullmatch(WEIGHTS, file.name):
            with suppress(SafetensorError), safe_open(file, "pt") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def _encoders(family: Family, places: list[str], revision: str | None, precision: str) -> dict[str, Any]:
    """The text encoders that can learn, on the device `meta`."""
    drawn: dict[str, Any] = {}
    for name, outline in family.tunable.outlines.items() if family.tunable else ():
        found, _ = _described(name, outline, places, revision)
        with torch.device("meta"):
            encoder = getattr(transformers, found["architectures"][0])(CLIPTextConfig(**found))
        drawn[name] = encoder.to(held_dtype(family, precision)).requires_grad_(False)
    return drawn


def _described(
    part: str, outline: Mapping[str, Any], places: list[str], revision: str | None
) -> tuple[Mapping[str, Any], str]:
    """A part's configuration and where it was found."""
    for place in places:
        file: Any = Path(place) / part / "config.json"
        if not file.is_file() and not Path(place).exists():
            file = try_to_load_from_cache(place, f"{part}/config.json", revision=revision)
        if isinstance(file, str | Path) and Path(file).is_file():
            try:
                return json.loads(Path(file).read_text(encoding="utf-8")), str(file)
            except ValueError as error:
                raise MissingPartError(f"{file} is no JSON: {error}", "check base.path in the recipe") from None
    return outline, "what is published of the family"
