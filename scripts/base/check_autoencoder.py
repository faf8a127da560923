"""How much of a face the autoencoder keeps: judge cosine and PSNR on people it never saw, by group as well.

    python scripts/base/check_autoencoder.py --pictures FOLDER --out build/base [--count 500] [--base FOLDER]

`--base` takes the autoencoder of a pipeline folder instead of that in OUT. OUT/pixels.npy holds the decoded pictures.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from captions import SEX_WORDS
from pictures import HELD_OUT, held_out_split, load_pixels, numbered, read_pictures, to_tensor
from train_autoencoder import load_autoencoder

from trainer.faces.base import get_detector, get_embedder
from trainer.weights import cache_folder, fetch

Measured = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--count", type=int, default=HELD_OUT)
    parser.add_argument("--base", type=Path, help="pipeline folder")
    args = parser.parse_args()
    fetch(cache_folder())
    pixels = load_pixels(args.pictures, args.out / "pixels.npy")
    told = [(picture.source, picture.person, picture.facts) for picture in read_pictures(args.pictures)]
    people = numbered([(source, person) for source, person, _ in told])
    rows = np.sort(held_out_split(people).held_out[: args.count])
    model = published_autoencoder(args.base) if args.base else load_autoencoder(args.out)
    measured = kept(pixels[rows], restored(model, pixels[rows]))
    by_label: dict[str, list[Measured | None]] = defaultdict(list)
    for row, one in zip(rows, measured, strict=True):
        source, _, facts = told[row]
        for label in ("all", *labels(facts, source)):
            by_label[label].append(one)
    print(table(by_label))


def published_autoencoder(folder: Path):
    """The autoencoder of a pipeline folder, in full precision."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder / "vae").float().eval().requires_grad_(False)


@torch.no_grad()
def restored(model, originals: np.ndarray) -> np.ndarray:
    """(n, height, width, 3) uint8 pictures, encoded and decoded."""
    rows = []
    for start in range(0, len(originals), 16):
        y = model.decode(model.encode(to_tensor(originals[start : start + 16])).latent_dist.mode()).sample.clamp(-1, 1)
        rows.append(((y.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy())
    return np.concatenate(rows)


def kept(originals: np.ndarray, others: np.ndarray) -> list[Measured | None]:
    """Judge cosine and PSNR in dB of each pair of pictures; None where the original shows no face."""
    detector, judge = get_detector(cache_folder()), get_embedder("onnx", cache_folder())
    out: list[Measured | None] = []
    for original, other in zip(originals, others, strict=True):
        face = max(detector.detect(original), key=lambda found: found.width, default=None)
        if face is None:
            out.append(None)
            continue
        cosine = float(judge.embed(original, face) @ judge.embed(other, face))
        out.append((cosine, psnr_db(original, other)))
    return out


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of two uint8 pictures in dB; equal ones count as half a level apart."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 0.25)))


def labels(facts: dict[str, str], source: str) -> list[str]:
    """The groups that a picture counts in: class word, group and source, where known."""
    named = (SEX_WORDS.get(facts.get("sex", "")), facts.get("group"), source)
    return [label for label in named if label]


def table(by_label: dict[str, list[Measured | None]]) -> str:
    """Markdown, one row a group, largest first."""
    lines = [
        "| held-out people | count | face found | judge cosine, mean | 5th percentile | PSNR |",
        "|---|---|---|---|---|---|",
    ]
    for label, measured in sorted(by_label.items(), key=lambda item: -len(item[1])):
        found = np.array([one for one in measured if one]).reshape(-1, 2)
        share = f"| {label} | {len(measured)} | {len(found) / len(measured):.1%} |"
        if len(found):
            mean, low = found[:, 0].mean(), np.quantile(found[:, 0], 0.05)
            lines.append(f"{share} {mean:.3f} | {low:.3f} | {found[:, 1].mean():.1f} dB |")
        else:
            lines.append(f"{share} - | - | - |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
