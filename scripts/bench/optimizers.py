"""Which optimizer teaches the base's denoiser sooner: the same start, pictures, words and noise for each, step by step.

    python scripts/bench/optimizers.py --pictures FOLDER --out build/base [--optimizers adamw muon] [--steps 250]
        [--batch 16] [--rate 6e-4] [--size lean] [--first 3000]

Needs a trained autoencoder in OUT. The table gives the mean loss of every fifth of the steps, and the seconds a step.
`--first` takes that many of the pictures, so that a trial needs few latents.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "base"))

from captions import load_words
from pages import figures_table
from pictures import held_out_split, load_pixels, people_of
from train_autoencoder import load_autoencoder
from train_unet import PREDICTIONS, Drawer, build_denoiser, learn, optimizers_of, rate_share, scheduler_of
from training_set import encoded

PARTS = 5
COLUMNS = {f"loss_{part}": f"loss, part {part} of {PARTS}" for part in range(1, PARTS + 1)} | {
    "step_s": "seconds a step"
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon"])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--size", default="lean")
    parser.add_argument("--first", type=int, default=3000)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    drawer = drawer_of(args)
    rows = {kind: measured(kind, drawer, args) for kind in args.optimizers}
    print(figures_table("optimizer", rows, COLUMNS))


def drawer_of(args: argparse.Namespace) -> Drawer:
    """Draws from the first pictures alone; only those are encoded."""
    pixels = load_pixels(args.pictures, args.out / "pixels.npy")
    words = load_words(args.pictures, pixels, args.out / "words.json")
    train = held_out_split(people_of(args.pictures)).train
    latents = encoded(load_autoencoder(args.out), pixels[: args.first], torch.device("cpu"))
    scale = 1 / float(latents.astype(np.float32).std())
    _, tokenizer = build_denoiser(args.out, latents.shape[2], args.size)
    return Drawer(latents, scale, words, train[train < args.first], tokenizer, scheduler_of(PREDICTIONS[0]))


def measured(kind: str, drawer: Drawer, args: argparse.Namespace) -> dict[str, float]:
    """Mean loss of each part of the training, and seconds a step."""
    torch.manual_seed(0)
    denoiser, _ = build_denoiser(args.out, drawer.latents.shape[2], args.size)
    optimizers = optimizers_of(denoiser, kind, args.rate)
    losses, started = [], time.monotonic()
    for step in range(args.steps):
        loss = denoiser(drawer.draw(step, args.batch))
        learn(denoiser, optimizers, loss, args.rate * rate_share(step, step / args.steps))
        losses.append(loss.item())
        print(kind, step + 1, f"{losses[-1]:.4f}", file=sys.stderr)
    seconds = (time.monotonic() - started) / args.steps
    means = [float(part.mean()) for part in np.array_split(np.array(losses), PARTS)]
    return dict(zip(COLUMNS, [*means, seconds], strict=True))


if __name__ == "__main__":
    main()
