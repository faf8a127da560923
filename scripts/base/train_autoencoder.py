"""Train the embedded base's autoencoder: an f8 `AutoencoderKL` on random crops of the framed pictures.

    python scripts/base/train_autoencoder.py --pictures FOLDER --out build/base --minutes 60

Resumes from `OUT/autoencoder.state.pt`; a fixed seed gives the same crops in the same
order. The loss is L1 on pixels and on their gradients (sharp edges matter to a face embedder), plus a small KL term;
the decoder also sees slightly noised latents, since a diffusion model's latents are never exact.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import checkpoint
import numpy as np
import torch
import torch.nn.functional as F
from pictures import framed, held_out_split, read_pictures, to_tensor
from safetensors.torch import load_file, save_file

CHANNELS = (16, 24, 48, 96)
LATENT_CHANNELS = 24
CROP_PX = 64
BATCH = 8
PEAK_LR = 1.5e-3
KL_WEIGHT = 2e-5
LATENT_NOISE = 0.1


def build_autoencoder():
    """The f8 autoencoder; without attention it is local, so crops train it as well as whole pictures."""
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):  # residual branches start silent: a nearly linear codec learns fastest
            torch.nn.init.zeros_(module.conv2.weight)
    return model


def load_pixels(pictures: Path, cache: Path) -> np.ndarray:
    """(n, 128, 128, 3) uint8, decoded once and memory-mapped afterwards."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, np.stack([framed(picture) for picture in read_pictures(pictures)]))
    return np.load(cache, mmap_mode="r")


def crops(pixels: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """(BATCH, 3, CROP_PX, CROP_PX) float32 in [-1, 1], mirrored half of the time."""
    out = np.empty((BATCH, CROP_PX, CROP_PX, 3), np.uint8)
    for row, index in enumerate(rng.integers(len(pixels), size=BATCH)):
        y, x = rng.integers(128 - CROP_PX + 1, size=2)
        crop = pixels[index, y : y + CROP_PX, x : x + CROP_PX]
        out[row] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return to_tensor(out)


def gradient_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 between horizontal and vertical pixel differences."""
    dx = (a[..., 1:] - a[..., :-1]) - (b[..., 1:] - b[..., :-1])
    dy = (a[..., 1:, :] - a[..., :-1, :]) - (b[..., 1:, :] - b[..., :-1, :])
    return dx.abs().mean() + dy.abs().mean()


def loss_of(model, x: torch.Tensor) -> torch.Tensor:
    posterior = model.encode(x).latent_dist
    z = posterior.sample()
    z = z + LATENT_NOISE * z.detach().std() * torch.rand(len(z), 1, 1, 1) * torch.randn_like(z)
    restored = model.decode(z).sample
    return F.l1_loss(restored, x) + 0.5 * gradient_l1(restored, x) + KL_WEIGHT * posterior.kl().mean() / x[0, 0].numel()


@torch.no_grad()
def psnr(model, pixels: np.ndarray) -> float:
    """PSNR in dB of whole held-out pictures through the mean latent."""
    x = to_tensor(pixels)
    restored = torch.cat(
        [model.decode(model.encode(part).latent_dist.mode()).sample.clamp(-1, 1) for part in x.split(16)]
    )
    mse = ((restored - x) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * mse.log10()).mean())


def running_average(average: torch.Tensor, value: torch.Tensor, step: torch.Tensor | int) -> torch.Tensor:
    """Exponential average whose memory grows from 10 to 1,000 steps, so that it forgets the random start."""
    decay = min(0.999, (1 + int(step)) / (10 + int(step)))
    return average.lerp(value, 1 - decay)


def learning_rate(spent: float) -> float:
    """Warm-up over the first 2% of the time, then a cosine to 3%; `spent` is the share of the time used, 0 to 1."""
    warm = min(1.0, spent / 0.02)
    return PEAK_LR * warm * (0.03 + 0.97 * 0.5 * (1 + float(np.cos(np.pi * min(spent, 1.0)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--minutes", type=float, default=60.0, help="training time in all, over every resume")
    args = parser.parse_args()

    torch.manual_seed(0)
    pixels = load_pixels(args.pictures, args.out / "pixels.npy")
    train, held_out = held_out_split(len(pixels))
    train_pixels, check_pixels = pixels[train], pixels[np.sort(held_out[:64])]
    model = build_autoencoder()
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=running_average)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-3)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    state = args.out / "autoencoder.state.pt"
    step, spent_s = checkpoint.resume(state, parts)

    started, saved_at = time.monotonic() - spent_s, time.monotonic()
    while True:
        spent_s = time.monotonic() - started
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spent_s / (60 * args.minutes))
        loss = loss_of(model, crops(train_pixels, np.random.default_rng((1, step))))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        done = spent_s > 60 * args.minutes
        if done or time.monotonic() - saved_at > 150:
            saved_at = time.monotonic()
            checkpoint.save(state, parts, step, spent_s)
            save_file(average.module.state_dict(), args.out / "autoencoder.safetensors")
            line = {
                "step": step,
                "spent_s": round(spent_s),
                "loss": round(loss.item(), 4),
                "psnr": round(psnr(average.module, check_pixels), 2),
            }
            checkpoint.log(args.out / "autoencoder.jsonl", line)
        if done:
            return


def load_autoencoder(folder: Path):
    """The trained (averaged) autoencoder of `folder`, in eval mode."""
    model = build_autoencoder()
    model.load_state_dict(load_file(folder / "autoencoder.safetensors"))
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
