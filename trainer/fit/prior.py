"""Prior preservation: without the trigger the adapter should change nothing.

Like the class-specific prior of DreamBooth (arXiv 2208.12242, section 3.3), but the answers are the frozen base's own
predictions, as in learning without forgetting (arXiv 1606.09282), and are computed once: a step pays for no second
forward pass. It also keeps the empty caption what it was, so that guidance leads from anybody to the person.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.bases.base import Base
from trainer.bases.conditioning import Conditioning
from trainer.fit.batches import alike, stratified_levels
from trainer.fit.cache import Cache, encoded_once
from trainer.fit.objective import NO_VIEW, Examples
from trainer.records import RGB

Tensor = torch.Tensor
SAMPLING_STEPS, GUIDANCE = 16, 2.0  # of the people made up
BATCH = 8


@dataclass(frozen=True, slots=True)
class Prior:
    """Answers of the base without an adapter, to latents of one shape; the first axis is the row.

    Attributes:
        noisy: (n, channels, height, width) noised latents.
        timesteps: (n,) their noise levels.
        wanted: what the base said, of the shape of `noisy`.
        texts: every different caption once, encoded.
        said: (n,) int64 rows of `texts`.
    """

    noisy: Tensor
    timesteps: Tensor
    wanted: Tensor
    texts: Conditioning
    said: Tensor

    def rows(self, index: Tensor) -> Examples:
        """The rows at these indices, for the loss; every place weighs the same."""
        noisy = self.noisy[index]
        text, weight = self.texts[self.said[index]], torch.ones_like(noisy[:, :1])
        timesteps = self.timesteps[index]
        return Examples(noisy, timesteps, text, self.wanted[index], weight, torch.full_like(timesteps, NO_VIEW))


def worth_asking(pictures: int, rows: int, drawn: int) -> tuple[int, int]:
    """Pictures and rows of the prior of a fit that draws `drawn` rows in all: no more rows than that.

    As large a part of the pictures as of the rows, so that each picture still stands for as many noise levels.
    """
    needed = min(rows, drawn)
    return math.ceil(pictures * needed / rows), needed


def build_prior(
    base: Base,
    cache: Cache,
    captions: Sequence[Sequence[str]],
    pictures: int,
    rows: int,
    seed: int,
    tick: Callable[[], None],
) -> list[Prior]:
    """At least `rows` answers of the base without an adapter, in batches of eight; those to each shape apart.

    Half of them to the samples' own latents, so that only the trigger tells the person from the class; half to the
    latents of `pictures` people whom the base makes up, where there are any: squares, as it makes them. The samples'
    own come in their shapes, or a shape would tell the person too. Every second caption is the empty one.

    Args:
        captions: (samples, wordings) class captions: those of the samples without the trigger.
        tick: called after each picture and each batch of answers.
    """
    prompts = [captions[index % len(captions)][-1] for index in range(pictures)]
    texts, known = encoded_once(base, ["", *(text for row in captions for text in row), *prompts])
    sources = [([views[0] for views in cache.latents], known[1 : len(known) - pictures].view(len(captions), -1))]
    if pictures:
        sources.append((list(_made_up(base, prompts, seed, tick)), known[-pictures:, None]))
    answered: dict[torch.Size, list[tuple[Tensor, ...]]] = {}
    for index in range(-(-rows // BATCH)):
        rng = np.random.default_rng((seed, 2, index))
        latents, wordings = sources[index % len(sources)]
        chosen = rng.integers(len(latents), size=BATCH).tolist()
        words = wordings[chosen, torch.from_numpy(rng.integers(wordings.shape[1], size=BATCH))]
        words[::2] = known[0]
        for places in alike([latents[index].shape for index in chosen]):
            asked = torch.stack([latents[chosen[place]] for place in places])
            said = words[places]
            answered.setdefault(asked.shape[1:], []).append((*_answered(base, asked, texts[said], rng), said))
        tick()
    return [_joined(parts, texts) for parts in answered.values()]


def _joined(parts: Sequence[tuple[Tensor, ...]], texts: Conditioning) -> Prior:
    noisy, timesteps, wanted, said = (torch.cat(column) for column in zip(*parts, strict=True))
    return Prior(noisy, timesteps, wanted, texts, said)


def prior_rows(prior: Sequence[Prior], step: int, count: int, seed: int) -> Examples:
    """The `count` rows, all of one shape, that belong to `step`; each is drawn equally often, and no state is kept."""
    rng = np.random.default_rng((seed, 3, step))
    sizes = [len(of_shape.said) for of_shape in prior]
    drawn = rng.integers(sum(sizes), size=count)
    shape = int(np.searchsorted(np.cumsum(sizes), drawn[0], side="right"))
    # The first says the shape and its own row; the others are spread over that shape's rows.
    drawn[0] -= sum(sizes[:shape])
    drawn[1:] = drawn[1:] * sizes[shape] // sum(sizes)
    return prior[shape].rows(torch.from_numpy(drawn))


def _made_up(base: Base, prompts: Sequence[str], seed: int, tick: Callable[[], None]) -> Tensor:
    """(n, channels, height, width) latents of pictures that the base alone makes for these prompts."""
    found: dict[int, RGB] = {}
    count = len(prompts)
    seeds = [int(value) for value in np.random.default_rng((seed, 4)).integers(2**31, size=count)]

    def keep(index: int, rgb_u8: RGB) -> None:
        found[index] = rgb_u8
        tick()

    base.sample(prompts, seeds, SAMPLING_STEPS, GUIDANCE, base.at_once, keep)
    return base.encode_images([found[index] for index in range(count)])


@torch.no_grad()
def _answered(
    base: Base, latents: Tensor, text: Conditioning, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The latents noised at levels spread over the whole schedule, these levels, and what the base says to them."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
    timesteps = stratified_levels(len(latents), len(base.schedule), rng)
    noisy = base.schedule.noised(latents, noise, timesteps)
    device = next(base.denoiser.parameters()).device
    answers = []
    for rows in torch.split(torch.arange(len(noisy)), base.at_once):
        answers.append(base.predict(noisy[rows].to(device), timesteps[rows].to(device), text[rows].to(device)).cpu())
    return noisy, timesteps, torch.cat(answers)
