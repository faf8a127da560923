"""The prior: the base's own answers to the class, and an adapter that keeps to them where the trigger is absent."""

from pathlib import Path

import pytest
import torch

from trainer.bases.base import Base, get_base
from trainer.fit.cache import Cache, build_cache, class_caption, read_samples
from trainer.fit.lora import Shape, add_lora
from trainer.fit.objective import Examples, diffusion_loss
from trainer.fit.prior import Prior, build_prior, prior_rows, worth_asking

PICTURES, ROWS = 3, 40


@pytest.fixture(scope="module")
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


@pytest.fixture
def captions(samples: Path) -> list[list[str]]:
    return [[class_caption(sample.caption, "ohwx"), "photo of person"] for sample in read_samples(samples)]


@pytest.fixture
def cache(samples: Path, base: Base) -> Cache:
    found = read_samples(samples)
    return build_cache(found, [[sample.caption] for sample in found], base, True, 2.0, lambda: None)


def build(base: Base, cache: Cache, captions: list[list[str]], pictures: int = PICTURES, seed: int = 0) -> Prior:
    (prior,) = build_prior(base, cache, captions, pictures, ROWS, seed, lambda: None)
    return prior


@pytest.fixture
def prior(base: Base, cache: Cache, captions: list[list[str]]) -> Prior:
    return build(base, cache, captions)


def every_row(prior: Prior) -> Examples:
    return prior.rows(torch.arange(len(prior.noisy)))


@torch.no_grad()
def test_the_answers_are_the_base_s_own(base: Base, prior: Prior) -> None:
    assert prior.noisy.shape == prior.wanted.shape == (ROWS, 4, 16, 16)
    answers = base.predict(prior.noisy, prior.timesteps, every_row(prior).text)
    torch.testing.assert_close(prior.wanted, answers, rtol=1e-3, atol=1e-3)


def test_half_of_the_captions_are_empty_and_none_has_the_trigger(
    base: Base, cache: Cache, captions: list[list[str]], prior: Prior
) -> None:
    assert not any("ohwx" in caption for row in captions for caption in row)
    allowed = torch.cat([base.encode_texts(row).text for row in captions])
    none = cache.texts.text[cache.empty]
    empty = 0
    for text in every_row(prior).text.text:
        empty += torch.equal(text, none)
        assert torch.equal(text, none) or any(torch.equal(text, known) for known in allowed)
    assert empty == ROWS // 2


def test_it_is_about_the_samples_and_about_other_people(
    base: Base, cache: Cache, captions: list[list[str]], prior: Prior
) -> None:
    alone = build(base, cache, captions, pictures=0)
    same = [torch.equal(a, b) for a, b in zip(prior.noisy, alone.noisy, strict=True)]
    assert same == ([True] * 8 + [False] * 8) * 2 + [True] * 8  # batches of eight take turns


def test_seed_and_step_decide_everything(base: Base, cache: Cache, captions: list[list[str]], prior: Prior) -> None:
    torch.manual_seed(99)
    again, other = build(base, cache, captions), build(base, cache, captions, seed=1)
    assert torch.equal(again.wanted, prior.wanted)
    assert not torch.equal(other.noisy, prior.noisy)
    assert torch.equal(prior_rows([prior], 5, 4, 0).noisy, prior_rows([prior], 5, 4, 0).noisy)
    assert not torch.equal(prior_rows([prior], 5, 4, 0).noisy, prior_rows([prior], 6, 4, 0).noisy)


def test_an_untouched_adapter_has_no_loss_on_it_and_a_moved_one_learns_it_back(random_base: Path, prior: Prior) -> None:
    base = get_base("portrait-tiny", str(random_base))
    shape = Shape(4, 4.0, base.lora_targets("attention+conv"))
    parameters = list(add_lora(base.denoiser, shape, 0).values())
    with torch.no_grad():
        assert float(diffusion_loss(base, every_row(prior), "uniform", None).mean()) < 1e-6
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        moved = float(diffusion_loss(base, every_row(prior), "uniform", None).mean())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(15):
        diffusion_loss(base, prior_rows([prior], step, 8, 0), "uniform", None).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert float(diffusion_loss(base, every_row(prior), "uniform", None).mean()) < 0.7 * moved


@pytest.mark.parametrize(
    ("drawn", "asked"), [(1, (1, 1)), (40, (3, 40)), (192, (12, 192)), (384, (24, 384)), (1600, (24, 384))]
)
def test_no_more_is_asked_than_is_drawn(drawn: int, asked: tuple[int, int]) -> None:
    assert worth_asking(24, 384, drawn) == asked
    assert worth_asking(0, 384, drawn) == (0, asked[1])
