"""Train the embedded base's text encoder and UNet on the autoencoder's latents, and write the pipeline folder.

    python scripts/base/train_unet.py --pictures FOLDER --out build/base --minutes 60 [--publish FOLDER]

Needs a trained autoencoder in OUT. Resumes from `OUT/unet.state.pt`; every step draws from its own seed.
v-prediction (arXiv 2202.00512, section 4), or of the noise with `--prediction epsilon`; weights are averaged. `torchrun
--nproc-per-node N` in place of `python` lets N processes share every batch.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import checkpoint
import numpy as np
import torch
from ahead import ahead
from averaging import averaged
from budget import add_arguments, autocast, budget_of, device_of
from captions import caption
from muon import Muon
from networks import TEXT_TOKENS, UNET_WIDTHS, build_text_encoder, build_unet, write_tokenizer
from processes import ALONE, Processes, joined
from train_autoencoder import load_autoencoder
from training_set import load_training_set

from trainer.faces.attributes import mirrored

BATCH = 64
CHECKED = 4
PEAK_LR = 6e-4
WARMUP_STEPS, WARMUP_SHARE = 300, 0.04  # whichever is sooner
TEXT_LR_SHARE = 0.1
CROSS_ATTENTION_LR_SHARE = 3.0
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
CHOICES = ("size", "optimizer", "prediction")  # arguments that a resumed training must share
BESIDE_LATENTS = ("conv_in.", "conv_out.")  # the layers whose shapes hang on the number of channels
PREDICTIONS = ("v_prediction", "epsilon")
NOISE_SHIFT = 2.0  # more of the noisiest levels, where words decide (arXiv 2403.03206, eq. 23)


def scheduler_of(prediction: str):
    """The noise schedule of a training that predicts the velocity or the noise, one of `PREDICTIONS`.

    Unless rescaled, the noisiest level still shows brightness and composition: 256 places vote on them, and a sample's
    own noise is taken for them (arXiv 2305.08891, section 3.1). Pure noise says nothing to who predicts it (3.2).
    """
    from diffusers import DDPMScheduler

    rescaled = prediction == "v_prediction"
    return DDPMScheduler(**SCHEDULE, prediction_type=prediction, rescale_betas_zero_snr=rescaled)


def main() -> None:
    args = arguments()
    device = device_of(args)
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    with joined(device) as processes:
        train(args, device, processes)


def train(args: argparse.Namespace, device: torch.device, processes: Processes) -> None:
    """Step until the budget is used; the first process saves, logs and publishes."""
    budget, part = budget_of(args), processes.part(args.batch)
    with processes.first_ahead():
        known = load_training_set(args.pictures, args.out, device)
        denoiser, tokenizer = build_denoiser(args.out, known.latents.shape[2], args.size, args.precision)
        if args.init_from:
            load_published(denoiser, args.init_from, args.new_latents)
    denoiser.to(device)
    average = averaged(denoiser, share=0.05)
    optimizers = optimizers_of(denoiser, args.optimizer, args.rate, processes)
    parts = {"model": denoiser, "average": average, **optimizers}
    choices = {name: getattr(args, name) for name in CHOICES}
    step, spent_s = checkpoint.resume(args.out / "unet.state.pt", parts, choices)
    scheduler = scheduler_of(args.prediction)
    drawer = Drawer(known.latents, known.scale, known.words, known.drawn, tokenizer, scheduler)
    unseen = replace(drawer, pictures=known.held_out)
    drawn = ahead(lambda n: drawer.draw(n, args.batch, part), step, args.workers)
    if args.compile:
        denoiser.unet.compile()
    shared = processes.sharing(denoiser)

    started, saved_at, losses = time.monotonic() - spent_s, time.monotonic(), deque(maxlen=400)
    while not budget.is_used(step, spent_s):
        loss = shared(next(drawn))
        learn(denoiser, optimizers, loss, args.rate * rate_share(step, budget.share(step, spent_s)))
        average.update_parameters(denoiser)
        losses.append(loss.detach())  # a number would wait for the device
        step += 1
        spent_s = processes.agreed(time.monotonic() - started)
        due = budget.is_used(step, spent_s) or time.monotonic() - saved_at > args.save_s
        if due and processes.is_first:
            saved_at = time.monotonic()
            seen_loss, unseen_loss = torch.stack(list(losses)).mean().item(), held_out_loss(average.module, unseen)
            checkpoint.save(args.out / "unet.state.pt", parts, choices, step, spent_s)
            log(args.out, step, spent_s, {"loss": seen_loss, "held_out_loss": unseen_loss})
            if args.publish:
                publish(args.out, args.publish, average.module, known.scale, scheduler)
    if args.publish and not losses and processes.is_first:  # all was trained before, but perhaps not published there
        publish(args.out, args.publish, average.module, known.scale, scheduler)


@torch.no_grad()
def held_out_loss(denoiser: Denoiser, unseen: Drawer) -> float:
    """Mean loss on `CHECKED` batches of held-out people, the same every time: it rises where people are memorised."""
    return float(torch.stack([denoiser(unseen.draw(number, BATCH)) for number in range(CHECKED)]).mean())


def learn(denoiser: Denoiser, optimizers: Mapping[str, torch.optim.Optimizer], loss: torch.Tensor, rate: float) -> None:
    """One step of every optimizer down this loss, each group at its share of the rate."""
    for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
        group["lr"] = rate * group["share"]
    denoiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
    for optimizer in optimizers.values():
        optimizer.step()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, batch=BATCH, rate=PEAK_LR, save_s=180)
    parser.add_argument("--size", choices=UNET_WIDTHS, default="whole", help="of the denoiser")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw", help="of the denoiser's matrices")
    parser.add_argument("--prediction", choices=PREDICTIONS, default=PREDICTIONS[0], help="what the denoiser gives")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches, for a GPU: about 4")
    parser.add_argument("--compile", action="store_true", help="the denoiser's arithmetic (torch.compile), for a GPU")
    parser.add_argument("--publish", type=Path, help="also write the pipeline folder here at every save")
    parser.add_argument("--init-from", type=Path, help="pipeline folder to start from where there is no state yet")
    new_latents = "take only the layers that are not beside the latents: those may be of another autoencoder"
    parser.add_argument("--new-latents", action="store_true", help=new_latents)
    return parser.parse_args()


def log(out: Path, step: int, spent_s: float, losses: Mapping[str, float]) -> None:
    """Add to the learning curve."""
    rounded = {name: round(loss, 4) for name, loss in losses.items()}
    checkpoint.log(out / "unet.jsonl", {"step": step, "spent_s": round(spent_s), **rounded})


def build_denoiser(out: Path, latent_channels: int, size: str, precision: str = "auto"):
    """A new `Denoiser`, and the tokenizer, written when first needed."""
    from transformers import CLIPTokenizer

    if not (out / "tokenizer").exists():  # equally frequent pairs merge in any order: a resume keeps the first
        write_tokenizer(out / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    return Denoiser(build_unet(latent_channels, size), build_text_encoder(len(tokenizer)), precision), tokenizer


def rate_share(step: int, share: float) -> float:
    """Warm-up over the first steps or share of the budget, flat, then a line to 3% over its last 30%."""
    return min(1.0, max((step + 1) / WARMUP_STEPS, share / WARMUP_SHARE)) * min(1.0, max(0.03, (1 - share) / 0.3))


def load_published(denoiser: Denoiser, folder: Path, new_latents: bool = False) -> None:
    """Start from the weights of a published pipeline folder, with `new_latents` of another autoencoder's latents.

    The optimizer starts anew.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    weights = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    checkpoint.start_from(denoiser.unet, weights, BESIDE_LATENTS if new_latents else ())
    denoiser.text.load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict())


def optimizers_of(
    denoiser: Denoiser, kind: str, rate: float, processes: Processes = ALONE
) -> dict[str, torch.optim.Optimizer]:
    """AdamW for all, or for all but the denoiser's inner matrices, which Muon takes.

    Each group has its share of the rate: the cross-attention has far to go, the text encoder must not collapse.
    """
    unet = list(denoiser.unet.named_parameters())
    inner = {
        name for name, weight in unet if kind == "muon" and weight.ndim > 1 and not name.startswith(("conv_", "time_"))
    }
    asked = {
        "muon": [(name, weight) for name, weight in unet if name in inner],
        "optimizer": [(name, weight) for name, weight in unet if name not in inner],
    }
    groups = {
        key: [
            {"params": [weight for name, weight in some if ".attn2." not in name], "share": 1.0},
            {"params": [weight for name, weight in some if ".attn2." in name], "share": CROSS_ATTENTION_LR_SHARE},
        ]
        for key, some in asked.items()
    }
    groups["optimizer"].append({"params": list(denoiser.text.parameters()), "share": TEXT_LR_SHARE})
    fused = next(denoiser.parameters()).is_cuda
    adamw = torch.optim.AdamW(groups["optimizer"], lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=fused)
    if not inner:
        return {"optimizer": adamw}
    return {"optimizer": adamw, "muon": Muon(groups["muon"], rate, processes=processes, precision=denoiser.precision)}


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step learns from: noised latents, their (n,) noise levels, (n, TEXT_TOKENS) words, what to predict."""

    noisy: torch.Tensor
    levels: torch.Tensor
    texts: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True, slots=True)
class Drawer:
    """Draws a step's pictures, words and noise, all from the step's own number and on the CPU: devices agree.

    Attributes:
        latents: (n, 2, c, side, side) float16 of each picture and its mirror image; `scale` makes them unit.
        words: class word and attributes of each picture.
        pictures: indices of those to draw; one may be there several times.
        scheduler: of the noise, a `DDPMScheduler`; it also says what to predict.
    """

    latents: np.ndarray
    scale: float
    words: list[list[str]]
    pictures: np.ndarray
    tokenizer: Any
    scheduler: Any

    def draw(self, step: int, count: int, part: slice = slice(None)) -> Batch:
        """The `count` pictures that belong to `step`, or a `part` of them."""
        rng = np.random.default_rng((2, step))
        rows = self.pictures[rng.integers(len(self.pictures), size=count)]
        flips = rng.integers(2, size=count)
        z = torch.from_numpy(self.latents[rows, flips].astype(np.float32)) * self.scale
        captions = [
            caption(mirrored(self.words[row]) if flip else self.words[row], rng)
            for row, flip in zip(rows, flips, strict=True)
        ]
        texts = self.tokenizer(
            captions, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(z.shape, generator=generator)
        drawn = torch.rand(count, generator=generator)
        t = (1000 * NOISE_SHIFT * drawn / (1 + (NOISE_SHIFT - 1) * drawn)).long().clamp(max=999)
        is_noise = self.scheduler.config.prediction_type == "epsilon"
        target = noise if is_noise else self.scheduler.get_velocity(z, noise, t)
        whole = (self.scheduler.add_noise(z, noise, t), t, texts, target)
        return Batch(*(rows[part] for rows in whole))


class Denoiser(torch.nn.Module):
    """UNet and text encoder; called with a batch it gives the loss of what they predict.

    Every noise level weighs the same: min-SNR weights nearly silence the noisiest levels, where words decide.
    """

    def __init__(self, unet: torch.nn.Module, text: torch.nn.Module, precision: str = "auto") -> None:
        super().__init__()
        self.unet, self.text, self.precision = unet, text, precision

    def forward(self, batch: Batch) -> torch.Tensor:
        """Mean squared error, over all elements."""
        device = next(self.parameters()).device
        noisy = batch.noisy.to(device, memory_format=torch.channels_last)
        with autocast(device, self.precision):
            words = self.text(batch.texts.to(device)).last_hidden_state
            predicted = self.unet(noisy, batch.levels.to(device), words).sample
        return (predicted.float() - batch.target.to(device)).square().mean()


def publish(out: Path, folder: Path, averaged, scale: float, scheduler) -> None:
    """Write an ordinary `StableDiffusionPipeline` folder, the large parts in fp16."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    vae = load_autoencoder(out)
    vae.register_to_config(scaling_factor=scale)
    halved = copy.deepcopy(averaged).eval()  # the training goes on with the full-precision ones
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=halved.text,
        tokenizer=CLIPTokenizer.from_pretrained(out / "tokenizer"),
        unet=halved.unet.to(memory_format=torch.contiguous_format),
        scheduler=DPMSolverMultistepScheduler.from_config(scheduler.config, solver_order=2, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    part = out / "published.part"
    shutil.rmtree(part, ignore_errors=True)
    # The text encoder is small and stays fp32: transformers loads it in the type it was saved in, diffusers does not.
    vae.half(), halved.unet.half()
    pipeline.save_pretrained(part, safe_serialization=True)
    for written in part.rglob("*"):
        if written.is_file():
            target = folder / written.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            written.replace(target)
    shutil.rmtree(part)


if __name__ == "__main__":
    main()
