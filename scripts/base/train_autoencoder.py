"""Train the embedded base's autoencoder: an f8 `AutoencoderKL` on random crops of the framed pictures.

    python scripts/base/train_autoencoder.py --pictures FOLDER --out build/base --minutes 60

Resumes from `OUT/autoencoder.state.pt`; every step draws from its own seed. The loss is L1 on pixels and on their
gradients (sharp edges matter to a face embedder), plus a small KL term; the decoder also sees slightly noised latents,
since a diffusion model's latents are never exact. `--shrunk` gives the share of the steps in which latents and picture
are shrunk alike, so that latents stand for the same face at every size (EQ-VAE, arXiv 2502.09509): it costs likeness.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import checkpoint
import numpy as np
import torch
import torch.nn.functional as F
from ahead import ahead
from averaging import averaged
from budget import add_arguments, autocast, budget_of, device_of
from pictures import SIZE_PX, held_out_split, load_pixels, people_of, to_tensor
from safetensors.torch import load_file, save_file

CHANNELS = (16, 24, 48, 96)
LATENT_CHANNELS = 24
CROP_PX = 64
BATCH = 8
PEAK_LR = 1.5e-3
KL_WEIGHT = 2e-5
LATENT_NOISE = 0.1
SHRUNK_CELLS = (4, 8)  # from, below: latent side of a shrunk crop, whose side is 8
FACTOR = 8  # pixels a latent cell
BESIDE_LATENTS = ("encoder.conv_out.", "decoder.conv_in.")  # the layers whose shapes hang on the number of channels


def build_autoencoder(latent_channels: int = LATENT_CHANNELS):
    """The f8 autoencoder; without attention it is local, so crops train it as well as whole pictures."""
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=latent_channels,
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


def crops(pixels: np.ndarray, count: int, rng: np.random.Generator) -> torch.Tensor:
    """(count, 3, CROP_PX, CROP_PX) float32 in [-1, 1], mirrored half of the time."""
    out = np.empty((count, CROP_PX, CROP_PX, 3), np.uint8)
    for row, index in enumerate(rng.integers(len(pixels), size=count)):
        y, x = rng.integers(SIZE_PX - CROP_PX + 1, size=2)
        crop = pixels[index, y : y + CROP_PX, x : x + CROP_PX]
        out[row] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return to_tensor(out)


def gradient_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 between horizontal and vertical pixel differences."""
    dx = (a[..., 1:] - a[..., :-1]) - (b[..., 1:] - b[..., :-1])
    dy = (a[..., 1:, :] - a[..., :-1, :]) - (b[..., 1:, :] - b[..., :-1, :])
    return dx.abs().mean() + dy.abs().mean()


def loss_of(model, x: torch.Tensor, step: int, shrunk_share: float = 0.0) -> torch.Tensor:
    """Loss of the crops `x`; the noise belongs to `step` and is drawn on the CPU, so that a resume repeats it."""
    generator = torch.Generator().manual_seed(step)
    posterior = model.encode(x).latent_dist
    z = posterior.sample(generator)
    kl = posterior.kl().float().mean() / x[0, 0].numel()
    rng = np.random.default_rng((3, step))
    if rng.random() < shrunk_share:
        cells = int(rng.integers(*SHRUNK_CELLS))
        x, z = smaller(x, FACTOR * cells), smaller(z, cells)
    share = torch.rand(len(z), 1, 1, 1, generator=generator).to(z)
    z = z + LATENT_NOISE * z.detach().std() * share * torch.randn(z.shape, generator=generator).to(z)
    restored = model.decode(z).sample.float()
    return F.l1_loss(restored, x) + 0.5 * gradient_l1(restored, x) + KL_WEIGHT * kl


def smaller(planes: torch.Tensor, side: int) -> torch.Tensor:
    """(n, c, side, side) of square planes, without aliasing."""
    return F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def psnr(model, pixels: np.ndarray) -> float:
    """PSNR in dB of whole held-out pictures through the mean latent."""
    x = to_tensor(pixels).to(next(model.parameters()).device)
    restored = torch.cat(
        [model.decode(model.encode(part).latent_dist.mode()).sample.clamp(-1, 1) for part in x.split(16)]
    )
    mse = ((restored - x) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * mse.log10()).mean())


def rate_share(spent: float) -> float:
    """Warm-up over the first 2%, then a cosine to 3%; `spent` is the share of the time or steps used, 0 to 1."""
    warm = min(1.0, spent / 0.02)
    return warm * (0.03 + 0.97 * 0.5 * (1 + float(np.cos(np.pi * min(spent, 1.0)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, batch=BATCH, rate=PEAK_LR, save_s=150)
    parser.add_argument("--channels", type=int, default=LATENT_CHANNELS, help="latent channels")
    parser.add_argument("--init-from", type=Path, help="folder of weights to start from where there is no state yet")
    parser.add_argument(
        "--new-latents", action="store_true", help="take only the layers that are not beside the latents"
    )
    parser.add_argument("--shrunk", type=float, default=0.0, help="share of the steps on shrunk latents, 0 to 1")
    args = parser.parse_args()
    budget, device = budget_of(args), device_of(args)

    torch.manual_seed(0)
    pixels = load_pixels(args.pictures, args.out / "pixels.npy")
    split = held_out_split(people_of(args.pictures))
    train_pixels, check_pixels = pixels[split.train], pixels[np.sort(split.held_out[:64])]
    model = build_autoencoder(args.channels)
    if args.init_from:
        start_from(model, args.init_from, new_latents=args.new_latents)
    model.to(device)
    average = averaged(model, share=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    choices = {"channels": args.channels}
    step, spent_s = checkpoint.resume(args.out / "autoencoder.state.pt", parts, choices)
    drawn = ahead(lambda n: crops(train_pixels, args.batch, np.random.default_rng((1, n))), step)

    started, saved_at = time.monotonic() - spent_s, time.monotonic()
    while not budget.is_used(step, spent_s):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * rate_share(budget.share(step, spent_s))
        with autocast(device, args.precision):
            loss = loss_of(model, next(drawn).to(device), step, args.shrunk)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        spent_s = time.monotonic() - started
        if budget.is_used(step, spent_s) or time.monotonic() - saved_at > args.save_s:
            saved_at = time.monotonic()
            keep(args.out, average.module, step, spent_s, loss.item(), psnr(average.module, check_pixels))
            checkpoint.save(args.out / "autoencoder.state.pt", parts, choices, step, spent_s)


def start_from(model, folder: Path, new_latents: bool) -> None:
    """Take over the weights of `folder`; with `new_latents` its number of latent channels may be another."""
    weights = load_file(folder / "autoencoder.safetensors")
    checkpoint.start_from(model, weights, BESIDE_LATENTS if new_latents else ())


def keep(out: Path, average, step: int, spent_s: float, loss: float, psnr_db: float) -> None:
    """Save the averaged weights, and add to the learning curve."""
    save_file(average.state_dict(), out / "autoencoder.safetensors")
    line = {"step": step, "spent_s": round(spent_s), "loss": round(loss, 4), "psnr": round(psnr_db, 2)}
    checkpoint.log(out / "autoencoder.jsonl", line)


def load_autoencoder(folder: Path):
    """The trained (averaged) autoencoder of `folder`, in eval mode."""
    weights = load_file(folder / "autoencoder.safetensors")
    model = build_autoencoder(weights["decoder.conv_in.weight"].shape[1])
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
