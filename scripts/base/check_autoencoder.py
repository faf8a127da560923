"""How much of a face the autoencoder keeps: judge cosine and PSNR on pictures it never saw.

python scripts/base/check_autoencoder.py --pictures FOLDER --out build/base [--count 200]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pictures import held_out_split, to_tensor
from train_autoencoder import load_autoencoder, load_pixels, psnr

from trainer.faces.base import get_detector, get_embedder
from trainer.weights import cache_folder, fetch


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    fetch(cache_folder())
    detector, judge = get_detector(cache_folder()), get_embedder("onnx", cache_folder())
    pixels = load_pixels(args.pictures, args.out / "pixels.npy")
    _, held_out = held_out_split(len(pixels))
    originals = pixels[np.sort(held_out[: args.count])]
    model = load_autoencoder(args.out)
    cosines = []
    for original in originals:
        faces = detector.detect(original)
        if not faces:
            continue
        x = to_tensor(original[None])
        y = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        restored = ((y[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        cosines.append(float(judge.embed(original, faces[0]) @ judge.embed(restored, faces[0])))
    print(f"{len(cosines)} faces of {len(originals)} pictures: judge cosine {np.mean(cosines):.3f}, "
          f"5th percentile {np.quantile(cosines, 0.05):.3f}, PSNR {psnr(model, originals):.2f} dB")  # fmt: skip


if __name__ == "__main__":
    main()
