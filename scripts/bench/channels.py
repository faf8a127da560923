"""What more latent channels bring and cost: a base trained alike for each number of them, side by side.

    python scripts/bench/channels.py --pictures FOLDER [--channels 8 16 24 32] [--epsilon 24] [--out build/channels]
        [--size lean] [--init-from FOLDER] [--denoiser-from FOLDER] [--autoencoder-steps 3000] [--unet-steps 3000]
        [--count 600]

More channels keep more of a face and give the denoiser more to learn. The autoencoder is judged on people whom no
training saw; the denoiser by its pictures' distance to such people, beside the floor that its autoencoder leaves: real
pictures through it. Every number of channels has a folder in `--out`; whatever is done there is not done again, and
two calls with other numbers may run side by side. `--init-from` gives every autoencoder the same trained layers to
start from, but for those beside the latents, and `--denoiser-from` every denoiser: what differs is then the channels,
not how long each was trained. `--epsilon` trains one more denoiser for each of these numbers, which predicts the noise
and not the velocity.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "base"))  # the trainings' own way to read the pictures

from check_autoencoder import kept, restored
from pages import FIGURES, figures_table
from pictures import DECODED, HELD_OUT, held_out_split, link, load_pixels, people_of
from train_autoencoder import load_autoencoder

SCRIPTS = Path(__file__).resolve().parents[1]
OF_AUTOENCODER = (*DECODED, "autoencoder.safetensors", "latents.npy", "tokenizer")
OF_DENOISER = (
    "found", "followed", "frechet_judge", "floor_judge", "frechet_gate", "floor_gate", "recall_judge", "recall_gate",
)  # fmt: skip
COLUMNS = {"cosine": "judge cosine kept", "psnr": "PSNR, dB"} | {key: FIGURES[key] for key in OF_DENOISER}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 24, 32])
    parser.add_argument("--epsilon", type=int, nargs="*", default=[], help="numbers to predict the noise for, too")
    parser.add_argument("--out", type=Path, default=Path("build/channels"))
    parser.add_argument("--size", default="lean", help="of the denoiser")
    parser.add_argument("--optimizer", default="muon", help="of the denoiser's matrices")
    parser.add_argument("--init-from", type=Path, help="folder of a trained autoencoder of any number of channels")
    parser.add_argument("--denoiser-from", type=Path, help="pipeline folder of any number of channels")
    parser.add_argument("--autoencoder-steps", type=int, default=3000)
    parser.add_argument("--unet-steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32, help="pictures a step of the denoiser")
    parser.add_argument("--count", type=int, default=600, help="samples to judge the denoiser by")
    args = parser.parse_args()
    if args.epsilon and args.denoiser_from:
        parser.error("--epsilon: a trained denoiser already predicts one of both; leave out --denoiser-from")
    rows = {str(channels): measured(channels, args) for channels in args.channels}
    rows |= {f"{channels}, noise predicted": measured(channels, args, "epsilon") for channels in args.epsilon}
    print(figures_table("channels", rows, COLUMNS))


def measured(channels: int, args: argparse.Namespace, prediction: str = "v_prediction") -> dict[str, float]:
    """The figures of one number of channels; trains what is not trained yet."""
    with_autoencoder = args.out / f"{channels:02}"
    out = with_autoencoder if prediction == "v_prediction" else args.out / f"{channels:02}-{prediction}"
    figures = out / "figures.json"
    if figures.exists():
        return json.loads(figures.read_text())
    train_autoencoder(channels, with_autoencoder, args)
    if out != with_autoencoder:
        link(with_autoencoder, out, OF_AUTOENCODER)
    published, curve = out / "published", out / "curve.jsonl"
    train_denoiser(prediction, out, published, args)
    curve.unlink(missing_ok=True)
    looked = ["--pictures", args.pictures, "--cache", out, "--base", published, "--work", args.out / "work"]
    run("bench/base_model.py", *looked, "--count", args.count, "--curve", curve)
    found = json.loads(curve.read_text()) | what_is_kept(args.pictures, out)
    figures.write_text(json.dumps(found))
    return found


def train_autoencoder(channels: int, out: Path, args: argparse.Namespace) -> None:
    """Train the autoencoder of so many channels in `out`, or see that it is trained."""
    share_what_is_alike(args.out, out)
    start = ["--init-from", args.init_from, "--new-latents"] if args.init_from else []
    where = ["--pictures", args.pictures, "--out", out]
    run("base/train_autoencoder.py", *where, "--channels", channels, "--steps", args.autoencoder_steps, *start)


def train_denoiser(prediction: str, out: Path, published: Path, args: argparse.Namespace) -> None:
    """Train a denoiser on the latents of `out`'s autoencoder, or see that it is trained."""
    where = ["--pictures", args.pictures, "--out", out, "--publish", published, "--steps", args.unet_steps]
    how = ["--size", args.size, "--optimizer", args.optimizer, "--batch", args.batch, "--prediction", prediction]
    start = ["--init-from", args.denoiser_from, "--new-latents"] if args.denoiser_from else []
    run("base/train_unet.py", *where, *how, *start)


def share_what_is_alike(shared: Path, out: Path) -> None:
    """The decoded pictures and their words are the same for all: the first one's are linked."""
    for name in DECODED:
        there = next((file for file in sorted(shared.glob(f"*/{name}")) if not file.is_symlink()), None)
        if there:
            link(there.parent, out, [name])


def run(script: str, *arguments: object) -> None:
    """Call one of the other scripts; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, str(SCRIPTS / script), *map(str, arguments)], check=True)


def what_is_kept(pictures: Path, out: Path) -> dict[str, float]:
    """Mean judge cosine and PSNR of held-out people through the autoencoder of `out`."""
    pixels = load_pixels(pictures, out / "pixels.npy")
    originals = pixels[np.sort(held_out_split(people_of(pictures)).held_out[:HELD_OUT])]
    found = np.array([one for one in kept(originals, restored(load_autoencoder(out), originals)) if one])
    return dict(zip(("cosine", "psnr"), found.mean(0).tolist(), strict=True))


if __name__ == "__main__":
    main()
