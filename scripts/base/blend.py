"""Write a pipeline folder whose weights lie between those of two others, of which one was trained on from the other.

    python scripts/base/blend.py FIRST SECOND --share 0.5 --out FOLDER

Such weights can be better than both (model soups, arXiv 2203.05482): what the later training changed for the worse by
chance is halved, what it learned mostly stays. All but the denoiser and the text encoder is FIRST's.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TRAINED = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out}: exists already; choose a new --out")
    blended = {
        name: between(load_file(args.first / name), load_file(args.second / name), args.share) for name in TRAINED
    }
    shutil.copytree(args.first, args.out)
    for name, weights in blended.items():
        save_file(weights, args.out / name, metadata={"format": "pt"})


def between(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Each weight `share` of the way to the second's, in the first's type; raises SystemExit for other weights."""
    if {name: weight.shape for name, weight in first.items()} != {
        name: weight.shape for name, weight in second.items()
    }:
        raise SystemExit("the folders hold denoisers of different kinds: one must have been trained on from the other")
    return {
        name: torch.lerp(weight.float(), second[name].float(), share).to(weight.dtype)
        if weight.is_floating_point()
        else weight
        for name, weight in first.items()
    }


if __name__ == "__main__":
    main()
