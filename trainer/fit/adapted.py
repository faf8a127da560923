"""The parts of a base that carry an adapter: the denoiser, and the text encoders that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from trainer.bases.encoders import text_targets
from trainer.bases.words import all_new_rows, word_tensors
from trainer.fit.lora import Shape, add_lora, lora_start, lora_tensors
from trainer.fit.optimizer import TOKENS
from trainer.fit.settings import Settings

Tensor = torch.Tensor


class Parts(Protocol):
    """What is adapted of a `trainer.bases.base.Base`."""

    @property
    def component(self) -> str:
        """As of `Base`."""
        ...

    @property
    def denoiser(self) -> torch.nn.Module:
        """As of `Base`."""
        ...

    @property
    def text_encoders(self) -> Mapping[str, torch.nn.Module]:
        """As of `Base`."""
        ...

    def lora_targets(self, kind: str) -> list[str]:
        """As of `Base`."""
        ...


def parts_of(base: Parts) -> dict[str, torch.nn.Module]:
    """The modules that are adapted, by the pipeline's names for them; the denoiser first."""
    return {base.component: base.denoiser, **base.text_encoders}


def adapt(base: Parts, s: Settings) -> dict[str, Tensor]:
    """Put a new adapter on every part; the trainable parameters by name, those of a text encoder with its own before.

    Text encoders that only learn a word stay as they are but for its vectors, which are trainable too.

    `fit.rank_pattern` names layers of the denoiser. Raises RecipeError for an adapter that the base cannot carry.
    """
    targets = base.lora_targets(s.targets) if isinstance(s.targets, str) else s.targets
    weights = add_lora(base.denoiser, shape_of(s, targets), s.seed)
    tuned = base.text_encoders if s.text_encoder_rate is not None else {}
    for index, (name, encoder) in enumerate(tuned.items(), 1):
        shape = Shape(s.rank, s.alpha, text_targets(s.targets), s.adapter, s.init, s.dropout)
        own = add_lora(encoder, shape, s.seed + index)
        weights |= {f"{name}.{parameter}": weight for parameter, weight in own.items()}
    new = all_new_rows(base.text_encoders)
    return weights | {f"{TOKENS}{name}": rows.rows.requires_grad_() for name, rows in new.items()}


def shape_of(s: Settings, targets: Sequence[str]) -> Shape:
    """The adapter that the settings ask for, on these layers of the denoiser."""
    return Shape(s.rank, s.alpha, targets, s.adapter, s.init, s.dropout, s.rank_pattern)


def adapter_start(base: Parts, init: str) -> dict[str, Tensor]:
    """`lora.lora_start` of every part."""
    return {
        name: tensor
        for component, part in parts_of(base).items()
        for name, tensor in lora_start(part, init, component).items()
    }


def adapter_tensors(base: Parts, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`lora.lora_tensors` of every part, and the vectors of a word that is learned."""
    layers = {
        name: tensor
        for component, part in parts_of(base).items()
        for name, tensor in lora_tensors(part, start, component).items()
    }
    return layers | word_tensors(base.text_encoders)


def recompute(base: Parts, again: Callable[..., Any] | None = None) -> None:
    """Keep no activations of any part for the backward pass; `again` computes them, as torch's checkpoint does."""
    for component, part in parts_of(base).items():
        module: Any = part
        if component == base.component:
            module.enable_gradient_checkpointing(*([] if again is None else [again]))
        else:
            options = {"use_reentrant": False} | ({} if again is None else {"preserve_rng_state": False})
            # transformers' older name of the same
            enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
            enable(options)
