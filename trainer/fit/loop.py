"""The loop: steps, metrics, checkpoints and states."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from trainer.bases.base import Base
from trainer.bases.words import keep_lengths
from trainer.console import Console
from trainer.errors import DivergedError
from trainer.fit.adapted import adapter_tensors
from trainer.fit.average import averaged, move_averages
from trainer.fit.batches import batch_of, rows_of
from trainer.fit.cache import Cache
from trainer.fit.checkpoint import METRICS, Trained, save_checkpoint, save_state
from trainer.fit.identity import Identity
from trainer.fit.objective import Examples, diffusion_loss, examples_of, joined
from trainer.fit.optimizer import rate_at, set_rate
from trainer.fit.patience import Patience
from trainer.fit.prior import Prior, prior_rows
from trainer.fit.settings import Settings
from trainer.fit.trackers import measured
from trainer.processes import saying_lost

STATE_EVERY_S = 20.0
METRICS_EVERY = 10


@dataclass(frozen=True, slots=True)
class Loop:
    """One fit: what it reads and what it moves.

    A step's batch is a function of the seed and the step. It is worked through in parts of `batch_size` rows, one
    after the other (accumulation) and side by side (processes), and their gradients are added up.

    Attributes:
        names: file names of the cached samples, for error messages.
        prior: of each shape; none where the recipe asks for none.
        start: see `adapted.adapter_start`.
        patience: of the first process; None where every step is made.
        identity: the identity loss; None where it is off.
    """

    base: Base
    cache: Cache
    names: list[str]
    prior: Sequence[Prior]
    settings: Settings
    folder: Path
    accelerator: Accelerator
    trained: Trained
    start: Mapping[str, torch.Tensor]
    patience: Patience | None = None
    identity: Identity | None = None

    @property
    def parts(self) -> int:
        """Parts of a step's batch, of all processes together."""
        return self.settings.accumulation * int(self.accelerator.num_processes)

    def run(self, step: int, spent_s: float, console: Console) -> tuple[int, float]:
        """Make the steps that are left, or those until the patience is over.

        Returns all steps made and the seconds spent on them, those before an interruption included.

        Raises DivergedError before the optimizer's step when a loss or a gradient is no longer a number.
        """
        s, started = self.settings, time.monotonic() - spent_s
        saved_at = recorded_at = time.monotonic()
        losses: list[float] = []
        with console.progress("fitting", s.steps) as tick:
            tick(step)
            while step < s.steps:
                losses.append(self._step(step))
                step += 1
                if step % METRICS_EVERY == 0:
                    now = time.monotonic()
                    tick(0, f"loss {self._record(step, losses, now - recorded_at):.4f}")
                    recorded_at = now
                    losses.clear()
                if step % s.checkpoint_every == 0 or step == s.steps:
                    self._checkpoint(step)
                    if step < s.steps and self._is_over(step):
                        break
                # A state is only saved where the mean loss starts anew, so that the metrics resume alike too.
                due = time.monotonic() - saved_at > STATE_EVERY_S and step % METRICS_EVERY == 0
                if due and step < s.steps and self.accelerator.is_main_process:
                    save_state(self.folder, step, time.monotonic() - started, self.trained)
                    saved_at = time.monotonic()
                tick()
        return step, time.monotonic() - started

    def _record(self, step: int, losses: Sequence[float], seconds: float) -> float:
        """Append a line to the metrics; the mean of the losses since the last one, which these `seconds` took."""
        loss = sum(losses) / len(losses)
        self.accelerator.log(measured(loss, self._rate(step - 1), seconds / len(losses)), step=step)
        if self.accelerator.is_main_process:
            with (self.folder / METRICS).open("a") as metrics:
                metrics.write(json.dumps({"step": step, "loss": round(loss, 5), "lr": self._rate(step - 1)}) + "\n")
        return loss

    def _checkpoint(self, step: int) -> None:
        if self.accelerator.is_main_process:
            with averaged(self.trained.weights, self.trained.averages):
                save_checkpoint(self.folder, step, adapter_tensors(self.base, self.start))

    def _is_over(self, step: int) -> bool:
        """Whether the checkpoint just saved is one too many without progress; all processes hear it from the first."""
        if self.settings.stop_after is None:
            return False
        over = self.patience is not None and self.patience.is_over(step)
        if self.accelerator.num_processes == 1:
            return over
        told = torch.tensor(float(over), device=self.accelerator.device)
        with saying_lost():
            return bool(self.accelerator.reduce(told, "sum"))

    def _step(self, step: int) -> float:
        """One optimizer step; the mean loss of its samples."""
        s, trained = self.settings, self.trained
        own = range(self.accelerator.process_index, self.parts, self.accelerator.num_processes)
        bad = torch.zeros(s.batch_size * self.parts)
        value = self._summed(sum(self._backward(step, part, bad) for part in own), bad)
        if not math.isfinite(value):
            raise self._diverged(step, "loss", value, bad.nonzero().flatten().tolist())
        norm = self.accelerator.clip_grad_norm_(list(trained.weights.values()), s.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            raise self._diverged(step, "norm of the gradient", float(norm), range(s.batch_size * self.parts))
        learns_word = s.new_tokens > 0 and step < s.token_until * s.steps
        set_rate(trained.optimizer, self._rate(step), learns_word)
        trained.optimizer.step()
        if learns_word:
            keep_lengths(self.base.text_encoders)
        trained.optimizer.zero_grad(set_to_none=True)
        if s.ema_decay is not None:
            move_averages(trained.averages, trained.weights, s.ema_decay, step + 1)
        return value

    def _backward(self, step: int, part: int, bad: torch.Tensor) -> float:
        """Add the gradients of one part of the step's batch; what it adds to the mean loss.

        Marks the rows of the batch whose loss is no number in `bad`.
        """
        s = self.settings
        whole = 0.0
        also = None if self.identity is None else self.identity.losses
        with self._dropout_of(step, part):
            for given, places in self._examples(step, part):
                here = given.to(self.accelerator.device)
                losses = diffusion_loss(self.base, here, s.weighting, s.min_snr_gamma, also)
                # Divided by the samples alone: rows of the prior are added to a step, they take nothing from it.
                loss = losses.sum() / (s.batch_size * self.parts)
                value = float(loss.detach())
                if math.isfinite(value):
                    self.accelerator.backward(loss)
                else:
                    bad[places] = (~torch.isfinite(losses.detach()[: len(places)])).float().to(bad)
                whole += value
        return whole

    def _examples(self, step: int, part: int) -> list[tuple[Examples, torch.Tensor]]:
        """What is asked at once, each of one shape: rows of the step's batch and their places in it, then the prior."""
        s = self.settings
        size = s.batch_size * self.parts
        levels = len(self.base.schedule)
        asked = []
        for batch in batch_of(self.cache, step, size, s.seed, levels, s.caption_dropout, s.noise_levels):
            own = (batch.places // s.batch_size == part).nonzero().flatten()
            if len(own):
                asked.append((examples_of(self.base, batch).rows(own), batch.places[own]))
        if not self.prior:
            return asked
        answers = prior_rows(self.prior, step, s.prior_batch * self.parts, s.seed)
        return beside(asked, answers.rows(torch.arange(part * s.prior_batch, (part + 1) * s.prior_batch)))

    def _summed(self, value: float, bad: torch.Tensor) -> float:
        """Add up the gradients and the marks of all processes, and this number.

        Each must hear of a loss that is no number in another's part, or it would wait for that one forever.
        """
        if self.accelerator.num_processes == 1:
            return value
        weights = self.trained.weights.values()
        own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([bad.to(own[0]), own[0].new_tensor([value]), *(gradient.flatten() for gradient in own)])
        with saying_lost():
            summed = self.accelerator.reduce(flat, "sum")
            value = float(summed[len(bad)])
        bad.copy_(summed[: len(bad)])
        parts = summed[len(bad) + 1 :].split([gradient.numel() for gradient in own])
        for gradient, part in zip(own, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return value

    def _rate(self, step: int) -> float:
        s = self.settings
        return rate_at(s.schedule, s.learning_rate, step, s.steps, s.warmup_steps)

    @contextmanager
    def _dropout_of(self, step: int, part: int) -> Iterator[None]:
        """What dropout draws here depends on the seed, the step and the part alone; no generator is left changed."""
        device = self.accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=self.settings.dropout > 0):
            if self.settings.dropout > 0:
                torch.manual_seed(int(np.random.default_rng((self.settings.seed, 6, step, part)).integers(2**62)))
            yield

    def _diverged(self, step: int, what: str, value: float, rows: Sequence[int]) -> DivergedError:
        """The error that names the samples of these rows of the step's batch."""
        s = self.settings
        drawn = rows_of(self.cache.shapes, step, s.batch_size * self.parts, s.seed)
        names = sorted({self.names[int(drawn[row])] for row in rows})
        where = f" (samples {', '.join(names)})" if names else " (answers of the base)"
        return DivergedError(
            f"the {what} at step {step + 1} is {value}{where}", "lower fit.learning_rate and run again"
        )


def beside(asked: list[tuple[Examples, torch.Tensor]], answers: Examples) -> list[tuple[Examples, torch.Tensor]]:
    """The answers after the rows of their shape, or alone where no row has it."""
    for index, (samples, places) in enumerate(asked):
        if samples.noisy.shape[1:] == answers.noisy.shape[1:]:
            return [*asked[:index], (joined([samples, answers]), places), *asked[index + 1 :]]
    return [*asked, (answers, torch.zeros(0, dtype=torch.long))]
