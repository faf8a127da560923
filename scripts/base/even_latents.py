"""Make an autoencoder's latent channels more alike, for the denoiser to learn: its pictures stay the same.

    python scripts/base/even_latents.py --pictures FOLDER --autoencoder build/base --out build/even [--share 0.5]

One direction among the channels, brightness, holds most of what latents vary by, and the details of a face little.
Noise is as strong in every direction: it hides the details at nearly all of its levels. One matrix mixes the channels
so that every direction's mean square is its own to the power of `1 - share`: 0 changes nothing, 1 makes all alike
(whitening). It is folded into the encoder's last layer and its inverse into the decoder's first one, so that what is
decoded differs by rounding alone. Train the denoiser with `OUT` as its folder; the decoded pictures and their words are
linked there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pictures import held_out_split, link, load_pixels, people_of
from safetensors.torch import save_file
from train_autoencoder import load_autoencoder
from training_set import encoded

LOOKED_AT = 1000  # training pictures, evenly spread
SHARE = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder of a trained autoencoder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the mixed one")
    parser.add_argument("--share", type=float, default=SHARE, help="0 to 1")
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error("--share goes from 0 to 1")
    if (args.out / "latents.npy").exists():
        parser.error(f"--out: {args.out} has latents of another autoencoder; take another folder")
    link(args.autoencoder, args.out)
    pixels = load_pixels(args.pictures, args.out / "pixels.npy")
    rows = held_out_split(people_of(args.pictures)).train
    model = load_autoencoder(args.autoencoder)
    seen = encoded(model, pixels[rows[:: max(1, len(rows) // LOOKED_AT)]], torch.device("cpu"))
    squares = mean_squares(seen)
    mixing = mixing_of(squares, args.share)
    mix(model, mixing)
    save_file(model.state_dict(), args.out / "autoencoder.safetensors")
    for when, matrix in (("before", squares), ("after", mixing @ squares @ mixing.T)):
        print(f"mean squares {when}: {spectrum(matrix)}")


def mean_squares(latents: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """(c, c) second moments of the channels of (n, 2, c, side, side) latents, about zero, not about their means."""
    flat = np.moveaxis(latents, 2, 0).reshape(latents.shape[2], -1).astype(np.float64)
    return flat @ flat.T / flat.shape[1]


def mixing_of(squares: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.float64]:
    """(c, c) symmetric matrix that takes mean squares S to S^(1 - share), up to a factor: S^(-share / 2)."""
    values, directions = np.linalg.eigh(squares / np.trace(squares) * len(squares))
    return (directions * values.clip(min=1e-6) ** (-share / 2)) @ directions.T


@torch.no_grad()
def mix(model, mixing: npt.NDArray[np.float64]) -> None:
    """Let the encoder give `mixing` times its latents, and the decoder take them back.

    The encoder's log-variances stay those of the latents before, each moved by what its own channel grew.
    """
    forward, back = torch.from_numpy(mixing), torch.from_numpy(np.linalg.inv(mixing))
    channels, last, first = len(mixing), model.encoder.conv_out, model.decoder.conv_in
    last.weight[:channels] = torch.einsum("ij,jkyx->ikyx", forward, last.weight[:channels].double()).float()
    last.bias[:channels] = (forward @ last.bias[:channels].double()).float()
    last.bias[channels:] += forward.square().sum(1).log().float()
    first.weight.copy_(torch.einsum("oiyx,ij->ojyx", first.weight.double(), back).float())


def spectrum(squares: npt.NDArray[np.float64]) -> str:
    """Mean squares by direction, the largest first, as shares of their mean."""
    values = np.linalg.eigvalsh(squares)[::-1]
    return " ".join(f"{value:.2f}" for value in values / values.mean())


if __name__ == "__main__":
    main()
