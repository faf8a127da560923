"""Which optimizer moves the adapter, at which rate in which step, and what of it a resumed fit must have back.

Owner of prodigyopt, lion_pytorch and the optimizers of bitsandbytes: each is imported where it is asked for.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch

from trainer.errors import MissingPartError

Tensor = torch.Tensor
Optimizer = torch.optim.Optimizer
TEXT = "text_encoder"  # how their parameters' names begin
TOKENS = "tokens."  # how those of a new word's vectors do
RATE_SHARE = "rate_share"  # of a parameter group: its learning rate as a multiple of the schedule's


def build_optimizer(
    kind: str,
    parameters: Mapping[str, Tensor],
    learning_rate: float,
    weight_decay: float,
    plus_ratio: float | None,
    text_rate: float | None = None,
    token_rate: float = 1.0,
) -> Optimizer:
    """The optimizer of the recipe over named parameters.

    Args:
        kind: `adamw` (arXiv 1711.05101), `adamw8bit` (arXiv 2110.02861), `prodigy` (arXiv 2306.06101), `lion`
            (arXiv 2302.06675) or `adafactor` (arXiv 1804.04235).
        plus_ratio: LoRA+ (arXiv 2402.12354): the rate of every B over that of A; None: the same rate.
        text_rate: the rate of parameters of text encoders over that of the others; None: there are none.
        token_rate: the rate of a new word's vectors over that of the others.

    Raises MissingPartError where its package is not installed.
    """
    groups = _groups(parameters, plus_ratio or 1.0, text_rate or 1.0, token_rate)
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay)
    if kind == "adafactor":
        return torch.optim.Adafactor(groups, lr=learning_rate, weight_decay=weight_decay)
    if kind == "adamw8bit":
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of parts that no optimizer needs
        eight_bit: Optimizer = _library("bitsandbytes", "gpu").optim.AdamW8bit(
            groups, lr=learning_rate, weight_decay=weight_decay
        )
        return eight_bit
    if kind == "lion":
        lion: Optimizer = _library("lion_pytorch", "optimizers").Lion(
            groups, lr=learning_rate, weight_decay=weight_decay
        )
        return lion
    # The two options and the decay are what its README recommends for diffusion models.
    prodigy: Optimizer = _library("prodigyopt", "optimizers").Prodigy(
        groups, lr=learning_rate, safeguard_warmup=True, use_bias_correction=True
    )
    for group in prodigy.param_groups:
        group["weight_decay"] = weight_decay  # given above, it would print a line to stdout
    return prodigy


def set_rate(optimizer: Optimizer, rate: float, word: bool = True) -> None:
    """Give every group this learning rate, times its share; none to a new word's vectors unless `word` is learned."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_SHARE, 1.0) if word or not group.get(TOKENS) else 0.0


def rate_at(schedule: str, peak: float, step: int, steps: int, warmup_steps: int) -> float:
    """Learning rate of `step` (from 0): linear warm-up, then `cosine` or `linear` to a tenth, or `constant`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * (1 - 0.9 * done)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], str]:
    """Everything an optimizer remembers: its tensors as `group.index.name`, all else as JSON."""
    tensors: dict[str, Tensor] = {}
    said: dict[str, Any] = {"kind": type(optimizer).__name__, "state": {}}
    for place, parameter in _places(optimizer):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{place}.{name}"] = value.detach().cpu().clone()
            else:
                said["state"].setdefault(place, {})[name] = value
    said["groups"] = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    return tensors, json.dumps(said)


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], said: str) -> None:
    """Put back what `optimizer_state` took. Raises ValueError or KeyError when it is of another optimizer."""
    values = json.loads(said)
    if values["kind"] != type(optimizer).__name__:
        raise ValueError(f"it is of {values['kind']}")
    for group, kept in zip(optimizer.param_groups, values["groups"], strict=True):
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()})
    by_place: dict[str, dict[str, Any]] = {place: dict(kept) for place, kept in values["state"].items()}
    for key, tensor in tensors.items():
        place, _, name = key.rpartition(".")
        by_place.setdefault(place, {})[name] = tensor
    for place, parameter in _places(optimizer):
        # torch's own optimizers count steps on the CPU, whatever the device.
        optimizer.state[parameter] = {
            name: value.to(parameter.device) if isinstance(value, Tensor) and name != "step" else value
            for name, value in by_place.pop(place, {}).items()
        }
    if by_place:
        raise ValueError(f"no parameter for {next(iter(by_place))}")


def _places(optimizer: Optimizer) -> list[tuple[str, Tensor]]:
    """`group.index` and the parameter there, for all of them."""
    return [
        (f"{row}.{index}", parameter)
        for row, group in enumerate(optimizer.param_groups)
        for index, parameter in enumerate(group["params"])
    ]


def _groups(
    parameters: Mapping[str, Tensor], plus_ratio: float, text_rate: float, token_rate: float
) -> list[dict[str, Any]]:
    """One group for each learning rate, in the order in which the parameters come to them; new vectors apart."""
    by_share: dict[tuple[float, bool], list[Tensor]] = {}
    for name, tensor in parameters.items():
        share = (plus_ratio if ".lora_B." in name else 1.0) * (text_rate if name.startswith(TEXT) else 1.0)
        new = name.startswith(TOKENS)
        by_share.setdefault((token_rate if new else share, new), []).append(tensor)
    return [
        {"params": tensors} | ({RATE_SHARE: share} if share != 1 else {}) | ({TOKENS: True} if new else {})
        for (share, new), tensors in by_share.items()
    ]


def _library(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPartError(f"{module} is not installed", f"pip install 'likeness-trainer[{extra}]'") from None
