"""What a fit will hold and how long a step takes, and the ladder down to less memory."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer.bases.placing import SHARE_OF_GPU
from trainer.bases.quantize import narrower
from trainer.bases.sketch import sketch
from trainer.errors import UsageError
from trainer.fit.settings import Settings
from trainer.fit.tally import tally

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
MARGIN = 1.1  # a rung is taken where a tenth more than its prediction fits
CALIBRATION_S, SIDE, COPIED = 0.5, 1024, 2**26  # seconds, rows, bytes


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes, and floating point operations and copied bytes of one optimizer step.

    Attributes:
        process: what the interpreter and the libraries hold in main memory; 0 for a GPU.
        loading: the text encoders and the VAE beside the denoiser, before the first step.
        frozen: the own weights of the denoiser and of text encoders that learn.
        adapter: its weights and what the optimizer remembers of them.
        step: gradients, and what is kept and computed on the way, at its most.
        holes: in main memory between those tensors; never quite the same twice.
        copied: of blocks that lie in main memory, to the device, for their forward and for their backward pass.
    """

    process: int
    loading: int
    frozen: int
    adapter: int
    step: int
    holes: int
    flops: int
    copied: int = 0

    @property
    def fitting(self) -> int:
        """Most bytes during the steps."""
        return self.process + self.frozen + self.adapter + self.step + self.holes

    @property
    def peak(self) -> int:
        """Most bytes of all: of the steps, or of all parts of the base before them."""
        return max(self.fitting, self.process + self.loading)


@dataclass(frozen=True, slots=True)
class Rung:
    """One step down the ladder.

    Attributes:
        words: what is done.
        changes: recipe keys and their values, those of the rungs above included.
    """

    words: str
    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """A rung, what it needs, and roughly how long its steps take."""

    rung: Rung
    estimate: Estimate
    step_s: float
    fits: bool


def bytes_of(text: str) -> int:
    """`12GB`, `11.5 GiB`, `800M` in bytes. Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([KMG]I?)?B?", text.strip().upper())
    if not found or not float(found[1]):
        raise UsageError(f"--memory {text}: not an amount of memory", "write it like 12GB or 11.5GiB")
    return int(float(found[1]) * UNITS[found[2] or ""])


def memory_of(device: torch.device) -> int:
    """All bytes of the GPU's memory; the machine's own for any other device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ladder(s: Settings, precision: str, quantize: str = "none", device: str = "cpu") -> Iterator[Rung]:
    """The rungs in order, the cheapest in time first; each keeps those above it.

    Arithmetic in bf16; smaller parts of the same batch, as long as the rows of the prior divide too; activations
    computed again; parts of one sample, each with a row of the prior: more rows of it in a step than were asked for;
    the frozen weights rounded to 8, then to 4 bits, where bitsandbytes is installed: the one rung that changes the
    base; in its place, on a CUDA GPU, the blocks in main memory: the base as it is, in the least memory, for copying it
    twice a step. Other devices share the main memory, so there it would gain nothing.
    """
    changes: dict[str, Any] = {}
    yield Rung("as the recipe says", {})
    if precision == "fp32":
        changes |= {"fit.precision": "bf16"}
        yield Rung("arithmetic in bf16", dict(changes))
    batch, parts, prior = s.batch_size, s.accumulation, s.prior_batch
    while batch % 2 == 0 and prior % 2 == 0:
        batch, parts, prior = batch // 2, parts * 2, prior // 2
        changes |= {"fit.batch_size": batch, "fit.accumulation": parts, "fit.prior_batch": prior}
        yield Rung(f"batch in {parts} parts", dict(changes))
    if not s.gradient_checkpointing:
        changes |= {"fit.gradient_checkpointing": True}
        yield Rung("gradient checkpointing", dict(changes))
    if batch > 1:
        changes |= {"fit.batch_size": 1, "fit.accumulation": batch * parts, "fit.prior_batch": min(prior, 1)}
        yield Rung(f"batch in {batch * parts} parts", dict(changes))
    for kind in narrower(quantize) if s.init == "gaussian" else []:
        changes |= {"base.quantize": kind}
        yield Rung(f"frozen weights in {kind}", dict(changes))
    if device == "cuda" and not s.offload and s.adapter != "dora":
        changes.pop("base.quantize", None)
        whole = {} if quantize == "none" else {"base.quantize": "none"}
        yield Rung("blocks in main memory", changes | whole | {"fit.offload": True})


def estimate(base: Mapping[str, Any], s: Settings, precision: str, device: torch.device) -> Estimate:
    """What these settings need on this device, counted on the base's sketch.

    Args:
        base: arguments of `trainer.bases.base.get_base`, precision left out.
        precision: `fp32` or `bf16`.
    """
    drawn = sketch(**base, precision=precision, tune_texts=s.text_encoder_rate is not None or s.new_tokens > 0)
    if s.new_tokens:
        drawn.learn_word(s.trigger, s.new_tokens)
    counted = tally(drawn, s, device)
    frozen = counted.frozen - (counted.away if device.type == "cuda" else 0)
    loading = frozen + drawn.beside
    if device.type == "cpu" and (drawn.family.channels_last or counted.frozen < drawn.whole):
        # Weights are copied while their file is still mapped; the other parts' are read when they are used.
        loading = max(loading, counted.frozen + drawn.whole)
    if device.type == "cuda" and loading > SHARE_OF_GPU * memory_of(device):  # then each part is there while it works
        loading = max(frozen, drawn.beside)
    process = resident_bytes() if device.type == "cpu" else 0
    flops, copied = counted.flops * s.accumulation, 2 * counted.away * s.accumulation
    return Estimate(process, loading, frozen, counted.adapter, counted.step, counted.holes, flops, copied)


def plan(
    base: Mapping[str, Any],
    s: Settings,
    precision: str,
    device: torch.device,
    memory: int,
    tick: Callable[[], None] = lambda: None,
) -> list[Planned]:
    """The rungs down to the first that fits into `memory` bytes, or all of them where none does."""
    rates: dict[str, float] = {}
    planned = []
    for rung in ladder(s, precision, base.get("quantize", "none"), device.type):
        chosen = {key.removeprefix("fit."): value for key, value in rung.changes.items()}
        of_rung, held = chosen.pop("precision", precision), chosen.pop("base.quantize", None)
        of_base = base if held is None else {**base, "quantize": held}
        if of_rung not in rates:
            rates[of_rung] = flops_a_second(of_rung, device)
        needs = estimate(of_base, replace(s, **chosen), of_rung, device)
        step_s = _seconds(needs, rates[of_rung], device)
        planned.append(Planned(rung, needs, step_s, needs.peak * MARGIN <= memory))
        tick()
        if planned[-1].fits:
            break
    return planned


def _seconds(needs: Estimate, rate: float, device: torch.device) -> float:
    """Of a step: on a GPU blocks are copied while others are computed with, so the slower of the two counts."""
    computing = needs.flops / rate
    if not needs.copied:
        return computing
    copying = needs.copied / bytes_a_second(device)
    return max(computing, copying) if device.type == "cuda" else computing + copying


def flops_a_second(precision: str, device: torch.device) -> float:
    """What this machine makes of products of square matrices: an upper bound."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one = torch.rand(SIDE, SIDE, device=device, dtype=dtype)
    float((one @ one)[0, 0])  # the first one also prepares
    started, done = time.monotonic(), 0
    while time.monotonic() - started < CALIBRATION_S:
        float((one @ one)[0, 0])  # reading one number waits for a GPU
        done += 1
    return 2 * SIDE**3 * done / (time.monotonic() - started)


def bytes_a_second(device: torch.device) -> float:
    """What comes from main memory, pinned where there is a GPU, to the device: an upper bound too."""
    source = torch.zeros(COPIED, dtype=torch.uint8)
    source = source.pin_memory() if device.type == "cuda" else source
    place = torch.empty(COPIED, dtype=torch.uint8, device=device)
    int(place.copy_(source)[0])  # the first one also prepares
    started, done = time.monotonic(), 0
    while time.monotonic() - started < CALIBRATION_S:
        int(place.copy_(source, non_blocking=True)[0])
        done += 1
    return COPIED * done / (time.monotonic() - started)


def resident_bytes() -> int:
    """Main memory that this process holds; where the system does not say, the most it has held."""
    said = Path("/proc/self/statm")
    if said.is_file():
        return int(said.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
