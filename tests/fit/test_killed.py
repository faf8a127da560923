"""fit: a process killed at any moment, while it writes a file or not, is finished by others to the very same files."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conftest import hashes, write_samples

KILLS = 20
LOADED = ["trainer.fit.stage", "trainer.bases.latent_unet", "diffusers.models.unets.unet_2d_condition"]


def work(samples: Path, base: Path, folder: Path) -> None:
    """A small fit that saves its state at every second step, as slowly as a real one writes."""
    import torch

    from trainer.bases.base import get_base
    from trainer.console import Console
    from trainer.fit import loop, stage

    torch.set_num_threads(1)
    loop.STATE_EVERY_S, loop.METRICS_EVERY = -1.0, 2
    settings = stage.Settings(
        trigger="ohwx", steps=16, batch_size=1, checkpoint_every=4, rank=2, alpha=2.0, targets="attention",
        learning_rate=1e-3, warmup_steps=4, weight_decay=0.01, min_snr_gamma=None, face_weight=2.0,
        caption_dropout=0.1, wordings=1, word_dropout=0.5, prior_batch=0, prior_rows=1, prior_pictures=0, mirror=True,
        max_grad_norm=1.0, seed=3, ema_decay=0.9, dropout=0.1,
    )  # fmt: skip
    stage.fit(samples, get_base("portrait-tiny", str(base)), settings, folder, Console(quiet=True))


@pytest.fixture(scope="module")
def forkserver() -> multiprocessing.context.ForkServerContext:
    """Starts processes that need not import torch and diffusers again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def killed(process: BaseProcess, folder: Path, moment: random.Random, span_s: float) -> bool:
    """Kill after a random time, or in the middle of the n-th write; False when it had ended before."""
    writes, seconds = moment.randrange(1, 5), moment.uniform(0, span_s)
    in_a_write, seen, before = moment.random() < 0.5, 0, False
    started = time.monotonic()
    while process.is_alive():
        writing = any(path.name.endswith(".part") for path in folder.rglob(".*.part"))
        seen += writing and not before
        before = writing
        if (seen >= writes and writing) if in_a_write else time.monotonic() - started > seconds:
            break
    if not process.is_alive():
        return False
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_twenty_kills_change_nothing(
    forkserver: multiprocessing.context.ForkServerContext, random_base: Path, tmp_path: Path
) -> None:
    samples, whole, folder = write_samples(tmp_path), tmp_path / "whole", tmp_path / "killed"

    def start(where: Path) -> BaseProcess:
        where.mkdir(exist_ok=True)
        process = forkserver.Process(target=work, args=(samples, random_base, where))
        process.start()
        return process

    for _ in range(2):  # the first waits for the imports too, and the second makes it all again
        began = time.monotonic()
        (process := start(whole)).join()
        assert process.exitcode == 0
    span_s, moment = time.monotonic() - began, random.Random(7)
    kills, torn, made = 0, 0, 0
    while kills < KILLS or made == 0:
        process = start(folder)
        if kills < KILLS and killed(process, folder, moment, span_s):
            kills += 1
            torn += any(folder.rglob(".*.part"))
            continue
        process.join()
        assert process.exitcode == 0
        assert hashes(folder) == hashes(whole)
        shutil.rmtree(folder)
        made += 1
    assert torn > 0  # some were killed while they wrote
