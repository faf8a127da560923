"""fit: the loop. Every step is a function of the seed and the step's number, so a resumed run equals a whole one."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from trainer.bases.base import Base
from trainer.console import Console
from trainer.errors import DivergedError
from trainer.fit.batches import batch_of
from trainer.fit.cache import Cache, build_cache, class_caption, read_samples, wordings_of
from trainer.fit.checkpoint import METRICS, STATE, load_state, save_checkpoint, save_state
from trainer.fit.lora import add_lora
from trainer.fit.objective import Examples, diffusion_loss, examples_of, joined
from trainer.fit.prior import BATCH, Prior, build_prior, prior_rows

VERSION = 2
STATE_EVERY_S = 20.0
METRICS_EVERY = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """What fit needs of the recipe, flat; meanings and units as in `trainer.recipe.FitSection`."""

    trigger: str
    steps: int
    batch_size: int
    checkpoint_every: int
    rank: int
    alpha: float
    targets: str
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    min_snr_gamma: float | None
    face_weight: float
    caption_dropout: float
    wordings: int
    word_dropout: float
    prior_batch: int
    prior_rows: int
    prior_pictures: int
    noise_levels: str
    mirror: bool
    max_grad_norm: float
    seed: int


def fit(samples: Path, base: Base, settings: Settings, folder: Path, console: Console) -> dict[str, Any]:
    """Train an adapter on the prepared imagefolder and write checkpoints and metrics; returns the stage's facts."""
    found = read_samples(samples)
    rng = np.random.default_rng((settings.seed, 5))
    wordings = [wordings_of(sample.caption, settings.wordings, settings.word_dropout, rng) for sample in found]
    with console.progress("encoding samples", len(found)) as tick:
        cache = build_cache(found, wordings, base, settings.mirror, settings.face_weight, tick)
    prior = _prior(base, cache, wordings, settings, console)
    base.release()
    parameters = add_lora(
        base.denoiser, settings.rank, settings.alpha, base.lora_targets(settings.targets), settings.seed
    )
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    accelerator = Accelerator()
    base.denoiser, optimizer = accelerator.prepare(base.denoiser, optimizer)
    step, spent_s = load_state(folder, base.denoiser, optimizer)
    loop = _Loop(base, cache, prior, settings, folder, accelerator, optimizer, parameters)
    base.denoiser.train()
    seconds = loop.run(step, spent_s, console)
    (folder / STATE).unlink(missing_ok=True)
    return {
        "steps": settings.steps,
        "images_seen": settings.steps * settings.batch_size,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "fit_s": round(seconds, 2),
        "peak_bytes": peak_bytes(),
    }


def _prior(base: Base, cache: Cache, wordings: list[list[str]], s: Settings, console: Console) -> Prior | None:
    """The base's own answers, where the recipe asks for them."""
    if not s.prior_batch:
        return None
    captions = [[class_caption(wording, s.trigger) for wording in row] for row in wordings]
    with console.progress("asking the base", s.prior_pictures + -(-s.prior_rows // BATCH)) as tick:
        return build_prior(base, cache, captions, s.prior_pictures, s.prior_rows, s.seed, tick)


@dataclass(slots=True)
class _Loop:
    base: Base
    cache: Cache
    prior: Prior | None
    settings: Settings
    folder: Path
    accelerator: Accelerator
    optimizer: Any
    parameters: list[torch.Tensor]

    def run(self, step: int, spent_s: float, console: Console) -> float:
        """Make the steps that are left; the seconds spent on all of them, those before an interruption included."""
        s, started = self.settings, time.monotonic() - spent_s
        saved_at = time.monotonic()
        losses: list[float] = []
        with console.progress("fitting", s.steps) as tick, (self.folder / METRICS).open("a") as metrics:
            tick(step)
            while step < s.steps:
                losses.append(self._step(step))
                step += 1
                if step % METRICS_EVERY == 0:
                    loss = sum(losses) / len(losses)
                    losses.clear()
                    line = {"step": step, "loss": round(loss, 5), "lr": self._rate(step - 1)}
                    metrics.write(json.dumps(line) + "\n")
                    metrics.flush()
                    tick(0, f"loss {loss:.4f}")
                at_checkpoint = step % s.checkpoint_every == 0 or step == s.steps
                if at_checkpoint:
                    save_checkpoint(self.folder, step, self.base.denoiser, s.alpha / s.rank, self.base.component)
                # A state is only saved where the mean loss starts anew, so that the metrics resume alike too.
                due = time.monotonic() - saved_at > STATE_EVERY_S and step % METRICS_EVERY == 0
                if due and step < s.steps:
                    save_state(self.folder, step, time.monotonic() - started, self.base.denoiser, self.optimizer)
                    saved_at = time.monotonic()
                tick()
        return time.monotonic() - started

    def _step(self, step: int) -> float:
        s = self.settings
        given = self._examples(step).to(self.accelerator.device)
        # Divided by the samples alone: rows of the prior are added to a step, they take nothing from it.
        loss = diffusion_loss(self.base, given, s.min_snr_gamma).sum() / s.batch_size
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"the loss at step {step + 1} is {value}", "lower fit.learning_rate and run again")
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters, s.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def _examples(self, step: int) -> Examples:
        s = self.settings
        levels = len(self.base.schedule)
        batch = batch_of(self.cache, step, s.batch_size, s.seed, levels, s.caption_dropout, s.noise_levels)
        samples = examples_of(self.base, batch)
        if self.prior is None:
            return samples
        return joined([samples, prior_rows(self.prior, step, s.prior_batch, s.seed)])

    def _rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to a tenth of the peak."""
        s = self.settings
        if step < s.warmup_steps:
            return s.learning_rate * (step + 1) / s.warmup_steps
        share = (step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
        return s.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


def peak_bytes() -> int:
    """Most memory this process has used so far: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
