"""What it takes to make the first scored pictures again: the export compares with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.bases.sampling import Sampling, picture_name, sampling_jobs
from trainer.records import Prompt
from trainer.run import write_json


def write_first_batch(folder: Path, prompts: Sequence[Prompt], seeds: range, sampling: Sampling) -> None:
    """samples/adapter.json: all it takes to make the first batch of scored pictures again."""
    jobs = sampling_jobs(len(prompts), seeds)[: sampling.batch_size]
    (folder / "samples").mkdir(exist_ok=True)
    write_json(
        folder / "samples/adapter.json",
        {
            "files": [f"adapter/{picture_name(row, seed)}" for row, seed in jobs],
            "prompts": [prompts[row].text for row, _ in jobs],
            "seeds": [seed for _, seed in jobs],
            "steps": sampling.steps,
            "guidance": sampling.guidance,
        },
    )
