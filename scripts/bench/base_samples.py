"""What a base is asked for its benchmark, and the pictures it makes: each is kept, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ages import AGE_WORDS
from captions import GROUP_WORDS
from PIL import Image

from trainer.bases.base import Base
from trainer.console import Console
from trainer.evaluate.prompts import report_prompts
from trainer.faces.attributes import VOCABULARY
from trainer.records import RGB

SAMPLING = {"steps": 16, "guidance": 4.0, "batch_size": 8}  # those of the score
WHO = ("person", "man", "woman", *(f"person, {group}" for group in GROUP_WORDS))


@dataclass(frozen=True, slots=True)
class Asked:
    """One sample to make.

    Attributes:
        expects: words of the probe, and of the reader of ages, that the picture must show.
        labels: class word and, where there is one, group word.
        captioned: whether the prompt is a training picture's own caption.
        seed: of its noise.
    """

    text: str
    expects: tuple[str, ...]
    labels: tuple[str, ...]
    captioned: bool
    seed: int


def asked_for(count: int, prompt_set: str, captions: Sequence[Sequence[str]]) -> list[Asked]:
    """By turns prompts for one word, each for everyone in `WHO`, and one of `captions` in full; without any, the first.

    The first kind are the score's and one for every other word of the probe; the second is as varied as real pictures,
    which a distance to them needs.
    """
    asked = []
    for seed in range(count):
        captioned = bool(captions) and seed % 2 == 1
        index = seed // 2 if captions else seed
        asked.append(_captioned(captions[index % len(captions)], seed) if captioned else _scored(prompt_set, index))
    return [Asked(one.text, one.expects, one.labels, one.captioned, seed) for seed, one in enumerate(asked)]


def folder_of(work: Path, base: Base, guidance: float = SAMPLING["guidance"]) -> Path:
    """Where below `work` a base's samples are kept."""
    return work / f"{base.sha256[:12]}-s{SAMPLING['steps']}-g{guidance:g}"


def make(base: Base, asked: Sequence[Asked], folder: Path, guidance: float = SAMPLING["guidance"]) -> list[RGB]:
    """(side, side, 3) uint8 pictures of `asked`; those that `folder` holds are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / _name(one) for one in asked]
    missing = [index for index, file in enumerate(files) if not file.exists()]

    def keep(index: int, picture: RGB) -> None:
        part = files[missing[index]].with_suffix(".part")
        Image.fromarray(picture).save(part, format="png")
        part.replace(files[missing[index]])
        tick()

    with Console().progress("sampling", len(missing)) as tick:
        texts, seeds = [asked[i].text for i in missing], [asked[i].seed for i in missing]
        base.sample(texts, seeds, **{**SAMPLING, "guidance": guidance}, on_picture=keep)
    return [np.asarray(Image.open(file)) for file in files]


def _scored(prompt_set: str, index: int) -> Asked:
    who = WHO[index % len(WHO)]
    asked = [(prompt.text, prompt.expects) for prompt in report_prompts(prompt_set, who)]
    if prompt_set == "attributes":  # the score leaves some of the probe's words out
        told = {word for _, words in asked for word in words}
        asked += [(f"photo of {who}, {word}", (word,)) for word in (*VOCABULARY, *AGE_WORDS) if word not in told]
    text, expects = asked[index % len(asked)]
    return Asked(text, expects, tuple(who.split(", ")), False, index)


def _captioned(words: Sequence[str], seed: int) -> Asked:
    text = ", ".join([f"photo of {words[0]}", *words[1:]])
    expects = tuple(word for word in words if word in (*VOCABULARY, *AGE_WORDS))
    labels = (words[0], *(word for word in words[1:] if word in GROUP_WORDS))
    return Asked(text, expects, labels, True, seed)


def _name(asked: Asked) -> str:
    return f"{asked.seed:05d}-{hashlib.sha256(asked.text.encode()).hexdigest()[:12]}.png"
