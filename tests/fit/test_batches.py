"""Batches: a function of seed and step, fair to every sample, spread over all noise levels."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.bases.conditioning import Conditioning
from trainer.fit.batches import Batch, batch_of
from trainer.fit.cache import Cache

LEVELS = 1000


WORDINGS = 3


def cache_of(samples: int, views: int = 2) -> Cache:
    """Latents, texts and weights that say which sample and view they are of; texts also which wording, 0 to 2."""
    marks = torch.arange(samples * views, dtype=torch.float32).reshape(samples, views)
    latents = marks[:, :, None, None, None].expand(samples, views, 4, 2, 2)
    said = torch.arange(samples * views * WORDINGS).reshape(samples, views, WORDINGS)
    text = torch.stack([said // WORDINGS, said % WORDINGS], -1).view(-1, 2, 1).float()
    texts = Conditioning(torch.cat([text, torch.full((1, 2, 1), -1.0)]), torch.arange(len(text) + 1.0)[:, None])
    weight = marks[:, :, None, None, None].expand(samples, views, 1, 2, 2)
    return Cache(list(latents), texts, said, len(text), list(weight))


def whole(cache: Cache, step: int, size: int, seed: int = 0, dropout: float = 0.0, density: str = "uniform") -> Batch:
    """The batch of a step where all samples have one shape."""
    (batch,) = batch_of(cache, step, size, seed, LEVELS, dropout, density)
    assert batch.places.tolist() == list(range(size))
    return batch


def batches(cache: Cache, steps: int, size: int, seed: int = 0, dropout: float = 0.0) -> list[Batch]:
    return [whole(cache, step, size, seed, dropout) for step in range(steps)]


def marks_of(batch: Batch) -> list[int]:
    return [int(mark) for mark in batch.latents[:, 0, 0, 0]]


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31 - 1), st.integers(0, 10_000))
def test_a_batch_is_a_function_of_seed_and_step(samples: int, size: int, seed: int, step: int) -> None:
    cache = cache_of(samples)
    once = whole(cache, step, size, seed, 0.5)
    torch.manual_seed(step)  # neither the global generator nor other batches take part
    whole(cache, step + 1, size, seed, 0.5)
    again = whole(cache, step, size, seed, 0.5)
    assert torch.equal(once.text.text, again.text.text)
    assert all(torch.equal(getattr(once, name), getattr(again, name)) for name in Batch.__slots__ if name != "text")


def test_other_seeds_and_steps_bring_other_noise() -> None:
    cache = cache_of(12)
    noises = [whole(cache, step, 4, seed).noise for step in range(3) for seed in range(3)]
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == 9


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_every_sample_is_seen_equally_often(samples: int, size: int, epochs: int, seed: int) -> None:
    cache = cache_of(samples)
    steps = -(-samples * epochs // size)
    seen = [mark // 2 for batch in batches(cache, steps, size, seed) for mark in marks_of(batch)]
    assert Counter(seen[: samples * epochs]) == dict.fromkeys(range(samples), epochs)


@given(st.integers(1, 9), st.integers(0, 99))
def test_text_and_weight_belong_to_their_latents(size: int, seed: int) -> None:
    for batch in batches(cache_of(7), 5, size, seed):
        assert torch.equal(batch.text.text[:, 0, 0], batch.latents[:, 0, 0, 0])
        assert batch.text.pooled is not None
        assert torch.equal(batch.text.pooled[:, 0] // WORDINGS, batch.latents[:, 0, 0, 0])
        assert torch.equal(batch.weight[:, 0, 0, 0], batch.latents[:, 0, 0, 0])


def test_every_wording_is_drawn_about_equally_often() -> None:
    drawn = Counter(int(w) for batch in batches(cache_of(7), 150, 8) for w in batch.text.text[:, 1, 0])
    assert set(drawn) == set(range(WORDINGS))
    assert min(drawn.values()) > 0.8 * 150 * 8 / WORDINGS


def test_views_and_epochs_are_mixed() -> None:
    drawn = [marks_of(batch) for batch in batches(cache_of(8), 40, 8)]
    assert {mark for marks in drawn for mark in marks} == set(range(16))
    assert len({tuple(mark // 2 for mark in marks) for marks in drawn}) > 30


@given(st.integers(1, 64), st.integers(0, 999), st.integers(0, 99))
def test_noise_levels_are_in_range_and_evenly_spread(size: int, step: int, seed: int) -> None:
    levels = whole(cache_of(3), step, size, seed).timesteps
    assert levels.dtype == torch.int64
    assert 0 <= int(levels.min()) <= int(levels.max()) < LEVELS
    gaps = levels.sort().values.diff()
    assert ((gaps - LEVELS / size).abs() < 1).all()  # one level in each of `size` equal bands


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_captions_are_dropped_at_their_rate(share: float) -> None:
    empty = torch.cat([batch.text.text[:, 0, 0] == -1 for batch in batches(cache_of(9), 200, 8, dropout=share)])
    assert abs(float(empty.float().mean()) - share) < 0.04


def test_logit_normal_levels_follow_their_density() -> None:
    cache, rows = cache_of(3), 500
    drawn = torch.cat([whole(cache, step, 8, density="logit-normal").timesteps for step in range(rows)])
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < LEVELS
    logits = torch.logit((drawn + 0.5) / LEVELS)
    assert abs(float(logits.mean())) < 0.05
    assert abs(float(logits.std()) - 1) < 0.05


def test_the_noise_is_of_unit_scale() -> None:
    noise = torch.cat([batch.noise.flatten() for batch in batches(cache_of(9), 200, 8)])
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
