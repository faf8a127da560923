"""Prior preservation: without the trigger the adapter should change nothing.

Like the class-specific prior of DreamBooth (arXiv 2208.12242, section 3.3), but the answers are the frozen base's own
predictions, as in learning without forgetting (arXiv 1606.09282), and are computed once: a step pays for no second
forward pass. It also keeps the empty caption what it was, so that guidance leads from anybody to the person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from trainer.bases.base import Base
from trainer.fit.batches import stratified_levels
from trainer.fit.cache import Cache
from trainer.fit.objective import Examples, joined, noised
from trainer.records import RGB

Tensor = torch.Tensor
SAMPLING_STEPS, GUIDANCE = 16, 2.0  # of the people made up
BATCH = 8


def build_prior(
    base: Base,
    cache: Cache,
    captions: Sequence[Sequence[str]],
    pictures: int,
    rows: int,
    seed: int,
    tick: Callable[[], None],
) -> Examples:
    """At least `rows` answers of the base without an adapter, in batches of eight.

    Half of them to the samples' own latents, so that only the trigger tells the person from the class; half to the
    latents of `pictures` people whom the base makes up, where there are any. Every second caption is the empty one.

    Args:
        captions: (samples, wordings) class captions: those of the samples without the trigger.
        tick: called after each picture and each batch of answers.
    """
    own, own_texts = cache.latents[:, 0], torch.stack([base.encode_texts(row) for row in captions])
    sources = [(own, own_texts)]
    if pictures:
        prompts = [captions[index % len(captions)][-1] for index in range(pictures)]
        sources.append((_made_up(base, prompts, seed, tick), base.encode_texts(prompts)[:, None]))
    parts = []
    for index in range(-(-rows // BATCH)):
        rng = np.random.default_rng((seed, 2, index))
        latents, texts = sources[index % len(sources)]
        chosen = torch.from_numpy(rng.integers(len(latents), size=BATCH))
        text = texts[chosen, torch.from_numpy(rng.integers(texts.shape[1], size=BATCH))]
        text[::2] = cache.empty
        parts.append(_answered(base, latents[chosen], text, rng))
        tick()
    return joined(parts)


def prior_rows(prior: Examples, step: int, count: int, seed: int) -> Examples:
    """The `count` rows that belong to `step`; no state is kept."""
    rng = np.random.default_rng((seed, 3, step))
    return prior.rows(torch.from_numpy(rng.integers(len(prior.noisy), size=count)))


def _made_up(base: Base, prompts: Sequence[str], seed: int, tick: Callable[[], None]) -> Tensor:
    """(n, channels, height, width) latents of pictures that the base alone makes for these prompts."""
    found: dict[int, RGB] = {}
    count = len(prompts)
    seeds = [int(value) for value in np.random.default_rng((seed, 4)).integers(2**31, size=count)]

    def keep(index: int, rgb_u8: RGB) -> None:
        found[index] = rgb_u8
        tick()

    base.sample(prompts, seeds, SAMPLING_STEPS, GUIDANCE, BATCH, keep)
    return base.encode_images([found[index] for index in range(count)])


@torch.no_grad()
def _answered(base: Base, latents: Tensor, text: Tensor, rng: np.random.Generator) -> Examples:
    """The latents noised at levels spread over the whole schedule, and what the base says to them."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
    timesteps = stratified_levels(len(latents), len(base.alphas), rng)
    noisy = noised(base.alphas, latents, noise, timesteps)
    device = next(base.denoiser.parameters()).device
    wanted = base.predict(noisy.to(device), timesteps.to(device), text.to(device)).cpu()
    return Examples(noisy, timesteps, text, wanted, torch.ones_like(noisy[:, :1]))
