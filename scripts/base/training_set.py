"""What the denoiser learns from: latents and words of every picture, and of some pictures once more, shown whole."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captions import load_words
from pictures import (
    also_whole,
    held_out_split,
    load_pixels,
    load_whole,
    numbered,
    read_pictures,
    save_whole,
    to_tensor,
)
from train_autoencoder import load_autoencoder

ENCODED = 1024  # pictures whose latents are kept at once
# Words that, together, few pictures show.
RARE = ({"old"}, {"middle-aged", "color photo"}, {"dark"}, {"old", "woman"}, {"middle-aged", "woman"})
OFTEN = 4  # so many draws of a picture for each of `RARE` that it shows, where others have one


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Pictures as the denoiser sees them.

    Attributes:
        latents: (n, 2, c, 16, 16) float16 of each picture and its mirror image; `scale` makes them unit.
        words: class word and attributes of each picture.
        drawn: indices of those to train on, some several times.
        held_out: indices of one picture of each person held out.
    """

    latents: np.ndarray
    scale: float
    words: list[list[str]]
    drawn: np.ndarray
    held_out: np.ndarray


def load_training_set(pictures: Path, out: Path, device: torch.device) -> TrainingSet:
    """Read the folder of pictures; `out` has the autoencoder, and keeps what takes long to make."""
    told = [(picture.source, picture.person) for picture in read_pictures(pictures)]
    split = held_out_split(numbered(told))
    rows = also_whole(np.array([source for source, _ in told]), split.train)
    pixels, whole = load_pixels(pictures, out / "pixels.npy"), load_whole(pictures, rows, out / "whole_pixels.npy")
    words = load_words(pictures, pixels, out / "words.json")
    latents = latents_of(pixels, out, "latents", device)
    scale = 1 / float(latents[::40].astype(np.float32).std())
    if len(rows):
        words = words + load_words(pictures, whole, out / "whole_words.json", rows)
        latents = np.concatenate([latents, latents_of(whole, out, "whole_latents", device)])
    train = np.concatenate([split.train, len(pixels) + np.arange(len(rows))])
    return TrainingSet(latents, scale, words, repeated(train, words), split.held_out)


def repeated(rows: np.ndarray, words: list[list[str]]) -> np.ndarray:
    """The `rows`, those that show something rare `OFTEN` times for each."""
    return np.repeat(rows, [OFTEN * sum(rare <= set(words[row]) for rare in RARE) or 1 for row in rows])


def latents_of(pixels: np.ndarray, out: Path, name: str, device: torch.device) -> np.ndarray:
    """(n, 2, c, 16, 16) float16 latents of every picture and its mirror image, from `out`'s autoencoder.

    They are kept there under that name, and in chunks while they are made: a stopped run goes on.
    """
    cache, parts = out / f"{name}.npy", out / name
    if not cache.exists():
        parts.mkdir(exist_ok=True)
        model = load_autoencoder(out).to(device)
        files = [parts / f"{start:07}.npy" for start in range(0, len(pixels), ENCODED)]
        for index, file in enumerate(files):
            if not file.exists():
                save_whole(file, encoded(model, pixels[index * ENCODED : (index + 1) * ENCODED], device))
        save_whole(cache, np.concatenate([np.load(file) for file in files]))
        shutil.rmtree(parts)
    return np.load(cache, mmap_mode="r")


@torch.no_grad()
def encoded(model, pixels: np.ndarray, device: torch.device) -> np.ndarray:
    """(n, 2, c, 16, 16) float16 mean latents of pictures and their mirror images."""
    rows = []
    for start in range(0, len(pixels), 64):
        x = to_tensor(pixels[start : start + 64]).to(device)
        both = [model.encode(v).latent_dist.mode() for v in (x, x.flip(3))]
        rows.append(torch.stack(both, 1).half().cpu().numpy())
    return np.concatenate(rows)
