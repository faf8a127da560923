"""fit: the adapter. Every step is a function of the seed and the step's number, so a resumed run equals a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.bases.base import Base
from trainer.console import Console
from trainer.faces.base import DifferentiableEmbedder
from trainer.fit.adapted import adapt, adapter_start, parts_of, recompute
from trainer.fit.average import start_averages
from trainer.fit.cache import Cache, build_cache, class_caption, read_samples, wordings_of
from trainer.fit.checkpoint import METRICS, Trained, load_state, remove_states, truncate_lines
from trainer.fit.identity import build_identity
from trainer.fit.loop import Loop
from trainer.fit.optimizer import build_optimizer
from trainer.fit.patience import Check, Patience
from trainer.fit.prior import BATCH, Prior, build_prior, worth_asking
from trainer.fit.reading import check_apart, check_reading
from trainer.fit.settings import Settings
from trainer.fit.trackers import accelerator_with, peak_bytes, start_trackers
from trainer.fit.warm_start import warm_start
from trainer.processes import saying_lost

__all__ = ["VERSION", "Settings", "fit", "peak_bytes"]
VERSION = 4


def fit(
    samples: Path,
    base: Base,
    settings: Settings,
    folder: Path,
    console: Console,
    check: Check | None = None,
    eyes: DifferentiableEmbedder | None = None,
) -> dict[str, Any]:
    """Train an adapter on the prepared imagefolder and write checkpoints and metrics; returns the stage's facts.

    `check` scores a checkpoint for `settings.stop_after`; without it every step is made. `eyes` are those that the
    identity loss of `settings.identity_weight` looks through, and needed for it.
    Started by `accelerate launch` in several processes, each takes its part of every batch; the first one writes.
    """
    accelerator = accelerator_with(settings.trackers, folder.parent)
    if settings.text_encoder_rate is not None:
        base.tune_texts()
    found = read_samples(samples)
    if settings.new_tokens:
        check_apart(found, settings.trigger)
        base.learn_word(settings.trigger, settings.new_tokens, settings.token_init)
    reading = check_reading(found, base, settings.trigger, settings.mirror, console, not settings.new_tokens)
    rng = np.random.default_rng((settings.seed, 5))
    wordings = [wordings_of(sample.caption, settings.wordings, settings.word_dropout, rng) for sample in found]
    with console.progress("encoding samples", len(found)) as tick:
        cache = build_cache(found, wordings, base, settings.mirror, settings.face_weight, tick)
    drawn = settings.steps * settings.prior_batch * settings.accumulation * accelerator.num_processes
    prior = _prior(base, cache, wordings, settings, drawn, console)
    identity = build_identity(found, base, eyes, settings, accelerator.device)
    base.release(identity is not None, settings.gradient_checkpointing)
    trained, start = _adapted(base, settings, accelerator.device)
    step, spent_s = load_state(folder, trained, console)
    with saying_lost():
        accelerator.wait_for_everyone()  # all have read before the first one writes
    patience = None
    if accelerator.is_main_process:
        truncate_lines(folder / METRICS, step)
        patience = _patience(settings, check, folder, step)
    start_trackers(accelerator, settings.trackers, step, console)
    names = [sample.path.name for sample in found]
    loop = Loop(base, cache, names, prior, settings, folder, accelerator, trained, start, patience, identity)
    for part in parts_of(base).values():
        part.train()
    steps, seconds = loop.run(step, spent_s, console)
    with saying_lost():
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        remove_states(folder)
    accelerator.end_training()
    return {
        "steps": steps,
        "stopped_early": steps < settings.steps,
        "images_seen": steps * settings.batch_size * loop.parts,
        "parameters": sum(parameter.numel() for parameter in trained.weights.values()),
        "fit_s": round(seconds, 2),
        "peak_bytes": peak_bytes(),
        **reading,
    }


def _patience(s: Settings, check: Check | None, folder: Path, step: int) -> Patience | None:
    """What ends the fit early, with the scores up to this step; None where every step is made."""
    if s.stop_after is None or check is None:
        return None
    patience = Patience(check, s.stop_after, folder)
    patience.resume(step)
    return patience


def _adapted(base: Base, s: Settings, device: torch.device) -> tuple[Trained, dict[str, torch.Tensor]]:
    """Put the adapter on the base: what the loop will move, and `adapted.adapter_start`."""
    weights = adapt(base, s)
    for part in parts_of(base).values():
        part.to(device)  # an adapter is made beside its layer, which may lie in main memory
    start = adapter_start(base, s.init)
    if s.warm_start is not None:
        warm_start(parts_of(base), Path(s.warm_start))
    if s.gradient_checkpointing:
        recompute(base)
    rates = s.learning_rate, s.weight_decay, s.lora_plus_ratio, s.text_encoder_rate, s.token_rate
    optimizer = build_optimizer(s.optimizer, weights, *rates)
    return Trained(weights, start_averages(weights, s.ema_decay), optimizer), start


def _prior(
    base: Base, cache: Cache, wordings: list[list[str]], s: Settings, drawn: int, console: Console
) -> list[Prior]:
    """The base's own answers, where the recipe asks for them and a step will draw them."""
    if not drawn:
        return []
    captions = [[class_caption(wording, s.trigger) for wording in row] for row in wordings]
    pictures, rows = worth_asking(s.prior_pictures, s.prior_rows, drawn)
    with console.progress("asking the base", pictures + -(-rows // BATCH)) as tick:
        return build_prior(base, cache, captions, pictures, rows, s.seed, tick)
