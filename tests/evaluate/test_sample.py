"""Pictures on fixed prompts and seeds: the same bits however often the sampling was stopped."""

from pathlib import Path

import numpy as np
import pytest
from conftest import hashes

from trainer.bases.base import Base, get_base
from trainer.console import Console
from trainer.evaluate.sample import Sampling, picture_name, sample_prompts
from trainer.records import RGB, Prompt

PROMPTS = [Prompt(f"photo of ohwx person, {word}", "neutral") for word in ("smiling", "bright", "dark")]
SAMPLING = Sampling(steps=2, guidance=2.0, batch_size=4)


@pytest.fixture(scope="module")
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


def sample(base: Base, folder: Path, sampling: Sampling = SAMPLING) -> list[list[RGB]]:
    return sample_prompts(base, PROMPTS, 2, sampling, folder, Console(quiet=True), "pictures")


def test_there_is_a_picture_for_each_prompt_and_seed(base: Base, tmp_path: Path) -> None:
    rows = sample(base, tmp_path)
    assert [len(row) for row in rows] == [2, 2, 2]
    assert all(picture.shape == (128, 128, 3) for row in rows for picture in row)
    assert sorted(hashes(tmp_path)) == sorted(picture_name(p, s) for p in range(3) for s in range(2))
    assert len(set(hashes(tmp_path).values())) == 6
    again = sample(base, tmp_path)
    assert all(np.array_equal(a, b) for x, y in zip(rows, again, strict=True) for a, b in zip(x, y, strict=True))


def test_a_picture_that_misses_is_made_again_bit_for_bit_and_the_rest_is_kept(base: Base, tmp_path: Path) -> None:
    sample(base, tmp_path)
    before, times = hashes(tmp_path), {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / picture_name(2, 1)).unlink()
    (tmp_path / picture_name(2, 1)).with_suffix(".part").write_bytes(b"half")
    sample(base, tmp_path)
    assert hashes(tmp_path) == before
    kept = [path.name for path in tmp_path.iterdir() if path.stat().st_mtime_ns == times[path.name]]
    assert sorted(kept) == [picture_name(p, s) for p in range(2) for s in range(2)]  # the first batch of four


def test_a_picture_follows_its_prompt_and_seed_not_its_place(base: Base, tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    rows = sample(base, together)
    singles = sample(base, alone, Sampling(steps=2, guidance=2.0, batch_size=1))
    for row, single in zip(rows, singles, strict=True):
        for a, b in zip(row, single, strict=True):
            assert np.abs(a.astype(int) - b.astype(int)).max() <= 2
