"""How good a checkpoint is while its fit goes on: by the pictures, and to the eyes, that choose among all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from trainer.evaluate.stage import Evaluator, select_tag
from trainer.records import Checkpoint
from trainer.run import sha256_of, write_text

ADAPTER = "adapter.sha256"


class Checks:
    """Scores checkpoints for a fit that may end early; the pictures stay for the evaluation, which makes none twice.

    Models are loaded when the first checkpoint is there: by then the fit has freed what it does not need.
    """

    def __init__(self, load: Callable[[], Evaluator]) -> None:
        self._load = load

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self._load()

    def __call__(self, checkpoint: Checkpoint) -> float:
        """identity x prompt by the gate on the select photos, as `select.choose` ranks it; 0 where it copies."""
        evaluator = self._evaluator
        _keep_only(evaluator.folder / "samples" / select_tag(checkpoint), sha256_of(checkpoint.adapter))
        found = evaluator.candidate(checkpoint)
        return found.score if found.copying <= evaluator.settings.copying_limit else 0.0


def _keep_only(folder: Path, adapter_sha256: str) -> None:
    """Throw away pictures of another adapter: a fit that resumed elsewhere may have made this step otherwise."""
    said = folder / ADAPTER
    if folder.is_dir() and not (said.is_file() and said.read_text(encoding="utf-8") == adapter_sha256):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(said, adapter_sha256)
