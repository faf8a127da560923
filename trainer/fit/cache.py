"""Everything the frozen parts say about the samples, computed once before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from trainer.bases.base import Base
from trainer.bases.conditioning import Conditioning
from trainer.faces.attributes import mirrored
from trainer.records import Sample

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Cache:
    """What training reads; rows of a sample and, where mirroring is on, of its mirror image.

    Attributes:
        latents: of each sample (views, channels, height, width) float32, in its own shape.
        texts: every different caption once, encoded.
        said: (n, views, wordings) int64 rows of `texts`; the first wording is the whole caption.
        empty: the row of the empty caption.
        weight: of each sample (views, 1, height, width) float32 loss weights, mean 1 over each picture.
    """

    latents: Sequence[Tensor]
    texts: Conditioning
    said: Tensor
    empty: int
    weight: Sequence[Tensor]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each sample's latents."""
        return [(views.shape[-2], views.shape[-1]) for views in self.latents]


def read_samples(folder: Path) -> list[Sample]:
    """The samples of a prepared imagefolder, in the order of metadata.jsonl."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        Sample(
            folder / row["file_name"],
            row["text"],
            tuple(row["face_box"]),
            folder / row["mask_file_name"] if "mask_file_name" in row else None,
            np.array(row["landmarks"], np.float32) if "landmarks" in row else None,
        )
        for row in rows
    ]


def build_cache(
    samples: Sequence[Sample],
    wordings: Sequence[Sequence[str]],
    base: Base,
    mirror: bool,
    face_weight: float,
    on_sample: Callable[[], None],
) -> Cache:
    """Encode every sample with its wordings, and its mirror image with mirrored ones where `mirror` is on."""
    latents, said, weights = [], [], []
    for sample, captions in zip(samples, wordings, strict=True):
        rgb_u8 = np.asarray(Image.open(sample.path).convert("RGB"))
        views = [rgb_u8, rgb_u8[:, ::-1]] if mirror else [rgb_u8]
        said.append([captions, [mirrored_caption(caption) for caption in captions]][: len(views)])
        encoded = base.encode_images(views)
        weight = weights_of(sample, encoded.shape[-2], encoded.shape[-1], face_weight)
        latents.append(encoded)
        weights.append(torch.stack([weight, weight.flip(-1)][: len(views)]))
        on_sample()
    texts, rows = encoded_once(base, ["", *(text for views in said for of_view in views for text in of_view)])
    shape = len(samples), len(said[0]), len(said[0][0])
    return Cache(latents, texts, rows[1:].view(shape), int(rows[0]), weights)


def encoded_once(base: Base, texts: Sequence[str]) -> tuple[Conditioning, Tensor]:
    """Each different text encoded once, and the (n,) int64 row of every text given.

    Captions repeat themselves, and one of them is 4 MB for a base with a T5 of 512 tokens.
    """
    different = list(dict.fromkeys(texts))
    return base.encode_texts(different), torch.tensor([different.index(text) for text in texts])


def wordings_of(caption: str, count: int, word_dropout: float, rng: np.random.Generator) -> list[str]:
    """The caption and `count` - 1 shorter ones, each attribute left out with this chance.

    Prompts name one or two attributes; a person learned from whole captions alone hangs on all of them.
    """
    subject, *words = caption.split(", ")
    shorter = [[word for word in words if rng.random() >= word_dropout] for _ in range(count - 1)]
    return [caption, *(", ".join([subject, *kept]) for kept in shorter)]


def mirrored_caption(caption: str) -> str:
    """The caption with left and right exchanged."""
    return ", ".join(mirrored(caption.split(", ")))


def class_caption(caption: str, trigger: str) -> str:
    """The caption without the trigger: about anybody of that class."""
    return caption.replace(f"{trigger} ", "", 1)


def weights_of(sample: Sample, height: int, width: int, face_weight: float) -> Tensor:
    """(1, height, width) loss weights of a sample, by its mask, else by its face's box."""
    if sample.mask is None:
        return face_weights(sample.face_box, height, width, face_weight)
    return mask_weights(np.asarray(Image.open(sample.mask).convert("L")), height, width, face_weight)


def mask_weights(mask_u8: npt.NDArray[np.uint8], height: int, width: int, face_weight: float) -> Tensor:
    """(1, height, width) loss weights: `face_weight` where the (h, w) mask is 255, 1 where it is 0, scaled to mean 1.

    In between, and where a latent's pixel lies on the edge, as much of it as the mask covers.
    """
    covered = functional.adaptive_avg_pool2d(torch.from_numpy(mask_u8 / np.float32(255))[None], (height, width))
    weight = 1 + (face_weight - 1) * covered
    return weight / weight.mean()


def face_weights(box: Sequence[float], height: int, width: int, face_weight: float) -> Tensor:
    """(1, height, width) loss weights: `face_weight` inside the box (fractions), 1 outside, scaled to mean 1."""
    left, top, right, bottom = box
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    inside = ((rows >= top) & (rows <= bottom))[:, None] & ((columns >= left) & (columns <= right))[None]
    weight = torch.where(inside, face_weight, 1.0)
    return (weight / weight.mean())[None]
