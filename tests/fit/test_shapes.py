"""Samples of several shapes: batches, prior and steps of any base, and the same result however the work is parted."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import hashes, interrupted_at
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_loop import SETTINGS, assert_near, fit_in_two
from test_plan import settings_of
from tiny_bases import SAVERS

from trainer.adapter import read_adapter
from trainer.bases.base import Base, get_base
from trainer.bases.conditioning import Conditioning
from trainer.bases.sketch import Sketch, sketch
from trainer.fit import loop, stage
from trainer.fit.batches import batch_of, rows_of
from trainer.fit.cache import Cache, build_cache, read_samples
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.prior import Prior, build_prior, prior_rows
from trainer.fit.tally import tally
from trainer.prepare.buckets import shapes_of

SIZES = [(128, 128), (96, 160), (128, 128), (160, 96), (96, 160), (128, 128), (96, 160)]  # width, height
LATENTS = [(height // 8, width // 8) for width, height in SIZES]
bucket_sizes = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def shapes_in(counts: list[int]) -> list[int]:
    """A shape for each sample, of which so many have each."""
    return [shape for shape, count in enumerate(counts) for _ in range(count)]


def marked(counts: list[int]) -> Cache:
    """Latents that say which sample they are of, 2 high and as wide as their shape says."""
    shapes = shapes_in(counts)
    latents = [torch.full((2, 4, 2, 2 * shape + 2), float(index)) for index, shape in enumerate(shapes)]
    said = torch.arange(len(shapes))[:, None, None].expand(-1, 2, 1)
    text = Conditioning(torch.arange(len(shapes) + 1.0)[:, None, None])
    return Cache(latents, text, said, len(shapes), [views[:, :1] for views in latents])


@given(bucket_sizes, st.integers(1, 9), st.integers(0, 99), st.integers(0, 99))
def test_every_row_of_a_batch_is_in_one_part_of_its_own_shape(
    counts: list[int], size: int, seed: int, step: int
) -> None:
    cache = marked(counts)
    parts = batch_of(cache, step, size, seed, 1000, 0.0)
    assert sorted(place for part in parts for place in part.places.tolist()) == list(range(size))
    assert len({part.latents.shape[1:] for part in parts}) == len(parts)
    rows = rows_of(cache.shapes, step, size, seed)
    for part in parts:
        of = rows[part.places.numpy()]
        assert part.latents.shape == part.noise.shape
        assert part.latents[:, 0, 0, 0].tolist() == part.weight[:, 0, 0, 0].tolist() == of.tolist()
        assert part.text.text[:, 0, 0].tolist() == of.tolist()
    levels = torch.cat([part.timesteps for part in parts]).sort().values
    assert ((levels.diff() - 1000 / size).abs() < 1).all()
    again = batch_of(cache, step, size, seed, 1000, 0.0)
    assert all(torch.equal(a.noise, b.noise) for a, b in zip(parts, again, strict=True))


@given(bucket_sizes, st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_every_sample_of_every_bucket_is_seen_equally_often(
    counts: list[int], size: int, epochs: int, seed: int
) -> None:
    shapes, count = shapes_in(counts), sum(counts)
    seen = [int(row) for step in range(-(-count * epochs // size)) for row in rows_of(shapes, step, size, seed)]
    assert Counter(seen[: count * epochs]) == dict.fromkeys(range(count), epochs)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 99), st.integers(0, 99))
def test_with_one_shape_the_order_is_a_plain_permutation(count: int, size: int, seed: int, step: int) -> None:
    at = [divmod(place, count) for place in range(step * size, (step + 1) * size)]
    plain = [np.random.default_rng((seed, 1, epoch)).permutation(count)[place] for epoch, place in at]
    assert rows_of([(16, 16)] * count, step, size, seed).tolist() == plain


def test_a_batch_is_of_few_shapes() -> None:
    shapes = shapes_in([12, 7, 5, 3, 1])
    drawn = [{shapes[row] for row in rows_of(shapes, step, 4, 0)} for step in range(140)]
    plain = [{shapes[row] for row in np.random.default_rng(step).permutation(28)[:4]} for step in range(140)]
    assert np.mean([len(one) for one in drawn]) < 0.6 * np.mean([len(one) for one in plain])
    assert len(set(map(frozenset, drawn))) > 5


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared imagefolder of three squares, three upright pictures and a lying one."""
    folder = tmp_path_factory.mktemp("shaped")
    (folder / "images").mkdir()
    rows = []
    for index, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(index).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"images/{index}.png")
        text = f"photo of ohwx person, turned left, {index}"
        rows.append({"file_name": f"images/{index}.png", "text": text, "face_box": [0, 0, 0.5, 0.5]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def fit(samples: Path, base: Base, folder: Path, stop: int | None = None, **changes: Any) -> Path:
    """A small fit with a prior; interrupted after `stop` steps."""
    folder.mkdir(exist_ok=True)
    settings = replace(SETTINGS, **{"steps": 6, "checkpoint_every": 6, "prior_rows": 24, "batch_size": 4} | changes)
    stage.fit(samples, base, settings, folder, interrupted_at(stop))
    return folder


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return read_adapter(find_checkpoints(folder)[-1].adapter)[0]


@pytest.fixture
def load(random_base: Path) -> Callable[[], Base]:
    return lambda: get_base("portrait-tiny", str(random_base))


def test_a_stopped_fit_goes_on_to_the_same_adapter(
    shaped: Path, load: Callable[[], Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "METRICS_EVERY", 1)
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)
    whole = fit(shaped, load(), tmp_path / "whole", prior_pictures=2, dropout=0.1)
    with pytest.raises(KeyboardInterrupt):
        fit(shaped, load(), tmp_path / "stopped", stop=3, prior_pictures=2, dropout=0.1)
    torch.manual_seed(99)
    fit(shaped, load(), tmp_path / "stopped", prior_pictures=2, dropout=0.1)
    assert hashes(tmp_path / "stopped") == hashes(whole)


def test_parts_of_a_step_add_up_to_the_whole_one(
    shaped: Path, load: Callable[[], Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "METRICS_EVERY", 1)
    whole = fit(shaped, load(), tmp_path / "whole", prior_batch=2)
    parts = fit(shaped, load(), tmp_path / "parts", batch_size=2, accumulation=2, prior_batch=1)
    assert_near(parts, whole)


def test_two_processes_make_the_steps_of_one_with_twice_the_batch(
    shaped: Path, random_base: Path, load: Callable[[], Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "METRICS_EVERY", 1)
    fit_in_two(shaped, random_base, tmp_path / "two")
    alone = {"steps": 4, "checkpoint_every": 4, "batch_size": 2, "prior_batch": 2, "prior_rows": 8}
    assert_near(tmp_path / "two", fit(shaped, load(), tmp_path / "one", **alone))


def test_the_bad_sample_of_any_shape_is_named(
    shaped: Path, load: Callable[[], Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop.Loop.run

    def spoilt(self: loop.Loop, *rest: Any) -> Any:
        self.cache.latents[3].fill_(math.nan)
        return run(self, *rest)

    monkeypatch.setattr(loop.Loop, "run", spoilt)
    with pytest.raises(loop.DivergedError, match=r"\(samples 3\.png\)"):
        fit(shaped, load(), tmp_path / "fit")


def caches(shaped: Path, base: Base) -> Cache:
    found = read_samples(shaped)
    return build_cache(found, [[sample.caption] for sample in found], base, True, 2.0, lambda: None)


def test_latents_and_weights_have_the_samples_shapes(shaped: Path, load: Callable[[], Base]) -> None:
    cache = caches(shaped, load())
    assert cache.shapes == LATENTS
    for weight, (height, width) in zip(cache.weight, LATENTS, strict=True):
        assert weight.shape == (2, 1, height, width)
        inside = weight[0, 0, : height // 2, : width // 2]
        assert float(inside.min()) == pytest.approx(2 * float(weight[0, 0, -1, -1]))


def priors(shaped: Path, base: Base, pictures: int) -> list[Prior]:
    captions = [[f"photo of person, {index}"] for index in range(len(SIZES))]
    return build_prior(base, caches(shaped, base), captions, pictures, 64, 0, lambda: None)


@torch.no_grad()
def test_the_prior_asks_about_the_samples_in_their_shapes(shaped: Path, load: Callable[[], Base]) -> None:
    base = load()
    found = priors(shaped, base, pictures=2)
    counted = Counter({tuple(one.noisy.shape[-2:]): len(one.noisy) for one in found})
    assert sum(counted.values()) == 64
    assert set(counted) == set(LATENTS)
    assert counted[16, 16] > 32  # the people made up, and the samples' own squares
    for one in found:
        rows = one.rows(torch.arange(len(one.noisy)))
        answers = base.predict(one.noisy, one.timesteps, rows.text)
        torch.testing.assert_close(one.wanted, answers, rtol=1e-3, atol=1e-3)
    empty = sum(int((one.said == 0).sum()) for one in found)
    assert empty == 32


def test_a_step_draws_rows_of_one_shape_and_all_rows_about_equally(shaped: Path, load: Callable[[], Base]) -> None:
    found = priors(shaped, load(), pictures=0)
    drawn: Counter[float] = Counter()
    for step in range(4000):
        rows = prior_rows(found, step, 4, 0)
        drawn.update(rows.noisy[:, 0, 0, 0].tolist())  # tells the rows apart
    assert len(drawn) == 64
    assert 0.65 * 250 < min(drawn.values()) <= max(drawn.values()) < 1.35 * 250
    first, second = (prior_rows(found, step, 4, 0) for step in (7, 7))
    assert torch.equal(first.noisy, second.noisy)


@pytest.mark.parametrize("name", SAVERS)
def test_every_family_is_fitted_on_two_shapes_with_a_prior(
    name: str, tiny_base: Callable[[str], Path], shaped: Path, tmp_path: Path
) -> None:
    base = get_base(name, str(tiny_base(name)), size_px=128)
    assert all(side % base.step_px == 0 for size in SIZES for side in size)
    targets = base.lora_targets("attention")
    fit(shaped, base, tmp_path / "fit", steps=3, checkpoint_every=3, targets=targets, mirror=False)
    moved = adapter(tmp_path / "fit")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in moved.values())
    assert any(bool(tensor.any()) for key, tensor in moved.items() if "lora_B" in key)


@pytest.mark.parametrize("name", ["sdxl", "flux1", "sd3"])
def test_no_bucket_takes_more_memory_or_time_than_the_planned_square(
    name: str, tiny_base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(width: int, height: int) -> tuple[int, int]:
        def latents(self: Sketch, rows: int) -> torch.Tensor:
            channels = self.family.outline.latent(self.denoiser.config)
            return torch.zeros(rows, channels, height // 8, width // 8)

        monkeypatch.setattr(Sketch, "latents", latents)
        found = tally(sketch(name, str(tiny_base(name)), size_px=256), settings_of(), torch.device("cpu"))
        return found.step, found.flops

    shapes = shapes_of(256, 16, 2.0)
    square, *others = (counted(*shape) for shape in (shapes[0], shapes[1], shapes[-1]))
    assert all(step <= square[0] and flops <= square[1] for step, flops in others)
