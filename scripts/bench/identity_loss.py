"""What the identity loss sees, and what it costs.

    trainer prepare demo --set fit.identity_weight=0.1
    python scripts/bench/identity_loss.py runs/demo/latest/1_prepare [--adapter FILE] [--steps 10]

Prints, for the samples of that folder on the embedded base, the cosine to the sample itself, by dlib's embedder: of
what the VAE makes of it, and of the picture that the base's answer stands for, by the share of the picture in what is
noised (SNR / (1 + SNR)); and of a sample to the mean of the others. With `--steps` also the seconds of one core that a
step of the default recipe's fit takes without the loss and with it, the first two steps left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainer.bases.base import get_base
from trainer.console import Console, Tick
from trainer.faces.base import get_differentiable
from trainer.fit import stage
from trainer.fit.cache import read_samples
from trainer.jobs import fit_settings
from trainer.recipe import load_recipe
from trainer.weights import cache_folder

SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--steps", type=int, default=0)
    args = parser.parse_args()
    seen(args.samples, args.adapter)
    if args.steps:
        cost(args.samples, args.steps)


@torch.no_grad()
def seen(folder: Path, adapter: Path | None) -> None:
    """Print the cosines."""
    samples, base, eyes = read_samples(folder), get_base("portrait-tiny"), get_differentiable("dlib", cache_folder())
    base.use_adapter(adapter, folded=True)
    pictures = [np.asarray(Image.open(sample.path).convert("RGB")) for sample in samples]
    size = np.array([base.size_px, base.size_px], np.float32)
    landmarks = [np.asarray(sample.landmarks) * size for sample in samples]

    def vectors(pixels: torch.Tensor) -> torch.Tensor:
        return torch.stack([eyes.embed(one, points) for one, points in zip(pixels, landmarks, strict=True)])

    own = vectors(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float())
    latents, text = base.encode_images(pictures), base.encode_texts([sample.caption for sample in samples])

    def alike(found: torch.Tensor) -> str:
        cosines = (vectors((base.decode(found).clamp(-1, 1) + 1) * 127.5) * own).sum(1)
        return f"{float(cosines.mean()):.3f} (worst {float(cosines.min()):.3f})"

    others = [torch.nn.functional.normalize(own.sum(0) - vector, dim=0) for vector in own]
    to_mean = torch.stack(others).mul(own).sum(1)
    print(f"{len(samples)} samples; cosine to the mean of the others {float(to_mean.mean()):.3f}")
    print(f"VAE alone: {alike(latents)}")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    every = base.schedule.signal_share(torch.arange(len(base.schedule)))
    for share in SHARES:
        level = int((every - share).abs().argmin())
        levels = torch.full((len(samples),), level)
        noisy = base.schedule.noised(latents, noise, levels)
        found = base.schedule.denoised(noisy, base.predict(noisy, levels, text), levels)
        print(f"signal {share:.2f} (level {level} of {len(every)}): {alike(found)}")


def cost(folder: Path, steps: int) -> None:
    """Print the seconds a step."""
    recipe = load_recipe("portrait-tiny").recipe
    plain = replace(fit_settings(recipe), steps=steps + WARM_UP, checkpoint_every=steps + WARM_UP, prior_pictures=0)
    for weight in (None, 0.1):
        eyes = None if weight is None else get_differentiable("dlib", cache_folder())
        console = Ticking(quiet=True)
        with tempfile.TemporaryDirectory() as home:
            into = Path(home) / "2_fit"
            into.mkdir()
            settings = replace(plain, identity_weight=weight)
            facts = stage.fit(folder, get_base("portrait-tiny"), settings, into, console, eyes=eyes)
        spent = np.diff(console.at)[WARM_UP:]
        said = f"{statistics.mean(spent):.2f} s of a core a step ({min(spent):.2f} to {max(spent):.2f})"
        print(f"identity_weight {weight}: {said}, peak {facts['peak_bytes'] / 1e9:.2f} GB")


class Ticking(Console):
    """A console that remembers what this process had computed, in seconds, when each step of the fit was made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.at: list[float] = []

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Tick]:
        def tick(done: int = 1, note: str = "") -> None:
            if label == "fitting" and not note:
                self.at.append(time.process_time())

        yield tick


if __name__ == "__main__":
    main()
