"""Pictures on fixed prompts and seeds: the same bits however often the sampling was stopped."""

from pathlib import Path

import numpy as np
import pytest
from conftest import hashes
from PIL import Image

from trainer.bases.base import Base, get_base
from trainer.bases.sampling import Sampling, picture_name, read_pictures, sample_prompts
from trainer.console import Console
from trainer.evaluate.gallery import LOOKS, BasePictures
from trainer.evaluate.judge import look
from trainer.faces.base import get_detector, get_embedder
from trainer.records import RGB, Prompt

PROMPTS = [Prompt(f"photo of ohwx person, {word}", "neutral") for word in ("smiling", "bright", "dark")]
SEEDS = range(2)
SAMPLING = Sampling(steps=2, guidance=2.0, batch_size=4)


@pytest.fixture(scope="module")
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


def sample(base: Base, folder: Path, sampling: Sampling = SAMPLING) -> list[list[RGB]]:
    sample_prompts(base, PROMPTS, SEEDS, sampling, folder, Console(quiet=True), "pictures")
    return read_pictures(folder, PROMPTS, SEEDS)


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


def test_what_the_base_made_once_is_taken_by_the_next_run(base: Base, tmp_path: Path) -> None:
    kept = BasePictures(tmp_path / "kept")
    made, taken, other = tmp_path / "made", tmp_path / "taken", tmp_path / "other"
    wanted = base, PROMPTS, SEEDS, SAMPLING
    kept.take(*wanted, made)
    assert not made.exists()  # there is nothing yet
    sample(base, made)
    kept.keep(*wanted, made)
    kept.take(*wanted, taken)
    assert hashes(taken) == hashes(made)
    kept.take(base, PROMPTS, range(1, 3), SAMPLING, other)
    kept.take(base, PROMPTS[:2], SEEDS, SAMPLING, other)
    kept.take(base, PROMPTS, SEEDS, Sampling(steps=3, guidance=2.0, batch_size=4), other)
    assert not other.exists()


def test_what_was_seen_in_them_is_kept_to_the_bit(weights: Path, demo_files: list[Path], tmp_path: Path) -> None:
    kept, detector, judge = BasePictures(tmp_path), get_detector(weights), get_embedder("onnx", weights)
    face = np.asarray(Image.open(demo_files[0]).convert("RGB"))
    for pictures in ([[face], [np.zeros_like(face)]], [[np.zeros_like(face)]]):  # the second shows nobody
        wanted = look([row[0] for row in pictures], detector, judge)
        made = kept.look(pictures, detector, judge)
        file = max((tmp_path / LOOKS).iterdir(), key=lambda path: path.stat().st_mtime_ns)
        written = file.stat().st_mtime_ns
        taken = kept.look(pictures, detector, judge)
        assert file.stat().st_mtime_ns == written
        for seen in (made, taken):
            assert np.array_equal(seen.vectors, wanted.vectors)
            assert [found and (found.box, found.score) for found in seen.faces] == [
                found and (found.box, found.score) for found in wanted.faces
            ]
            assert all(
                a is None or b is None or np.array_equal(a.landmarks, b.landmarks)
                for a, b in zip(seen.faces, wanted.faces, strict=True)
            )
        file.write_bytes(file.read_bytes()[:40])  # a spoilt one is made again
        assert np.array_equal(kept.look(pictures, detector, judge).vectors, wanted.vectors)
        assert len(list((tmp_path / LOOKS).iterdir())) <= 2


def test_pictures_that_lie_there_are_never_replaced(base: Base, tmp_path: Path) -> None:
    kept, made = BasePictures(tmp_path / "kept"), tmp_path / "made"
    sample(base, made)
    kept.keep(base, PROMPTS, SEEDS, SAMPLING, made)
    (made / picture_name(0, 0)).write_bytes(b"mine")
    kept.take(base, PROMPTS, SEEDS, SAMPLING, made)
    assert (made / picture_name(0, 0)).read_bytes() == b"mine"
