"""Train the embedded base's text encoder and UNet on the autoencoder's latents, and write the pipeline folder.

    python scripts/base/train_unet.py --pictures FOLDER --out build/base --minutes 60 [--publish FOLDER]

Needs a trained autoencoder in OUT. Resumes from `OUT/unet.state.pt`; a fixed seed gives the same batches in the same
order. v-prediction (arXiv 2202.00512, section 4); weights are averaged.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from pathlib import Path

import checkpoint
import numpy as np
import torch
from captions import EXPRESSION_WORDS, caption, known_words, vocabulary
from pictures import held_out_split, read_pictures, to_tensor
from train_autoencoder import load_autoencoder, load_pixels

from trainer.bases.base import resolve_precision
from trainer.faces.attributes import AttributeReader, mirrored
from trainer.faces.onnx import OnnxDetector
from trainer.weights import cache_folder

BATCH = 64
PEAK_LR = 6e-4
WARMUP_STEPS = 300
AVERAGED_STEPS = 150  # memory of the weights' average; some thousand steps in all allow no longer one
TEXT_LR_SHARE = 0.1
CROSS_ATTENTION_LR_SHARE = 3.0
TEXT_SCALE = 3.0  # one word among 32 tokens is heard sooner
TEXT_TOKENS = 32
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    # Without this the noisiest level still shows brightness and composition: 256 places vote on them, and a sample's
    # own noise is taken for them (arXiv 2305.08891, section 3.1).
    "rescale_betas_zero_snr": True,
}
NOISE_SHIFT = 2.0  # more of the noisiest levels, where words decide (arXiv 2403.03206, eq. 23)


def write_tokenizer(folder: Path) -> None:
    """A CLIP byte-pair vocabulary in which the grammar's words are single tokens and any other word is spelled."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Training until no pair is left makes every word of the grammar one token.
    pairs.train_from_iterator(
        vocabulary(),
        trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False),
    )
    merges = [tuple(pair) for pair in json.loads(pairs.to_str())["model"]["merges"]]
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += dict.fromkeys(left + right for left, right in merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TEXT_TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def build_text_encoder(vocab_size: int):
    """Words start far apart and move slowly: at the UNet's rate every caption collapsed to one output."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            projection_dim=128,
            hidden_act="quick_gelu",
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
        )
    )
    for name, parameter in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif name.endswith("position_embedding.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith("final_layer_norm.weight"):
            torch.nn.init.constant_(parameter, TEXT_SCALE)
    return encoder


def build_unet(latent_channels: int):
    """Residual branches start silent, as in ADM (arXiv 2105.05233)."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=(96, 192, 256),
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=128,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, BasicTransformerBlock):
            torch.nn.init.zeros_(module.attn1.to_out[0].weight)
            torch.nn.init.zeros_(module.ff.net[2].weight)
    return unet.to(memory_format=torch.channels_last)  # 1.1 times faster on CPUs


@torch.no_grad()
def latents_of(pixels: np.ndarray, out: Path) -> tuple[np.ndarray, float]:
    """(n, 2, c, 16, 16) float16 latents of every picture and its mirror image, and the scale that makes them unit."""
    cache = out / "latents.npy"
    if not cache.exists():
        model = load_autoencoder(out)
        rows = []
        for start in range(0, len(pixels), 64):
            x = to_tensor(pixels[start : start + 64])
            both = [model.encode(v).latent_dist.mode() for v in (x, x.flip(3))]
            rows.append(torch.stack(both, 1).half().numpy())
        np.save(cache, np.concatenate(rows))
    latents = np.load(cache, mmap_mode="r")
    return latents, 1 / float(latents[::40].astype(np.float32).std())


def load_words(pictures: Path, pixels: np.ndarray, cache: Path) -> list[list[str]]:
    """Each picture's class word and attributes: what its source says, then what is measured in it."""
    if not cache.exists():
        detector, reader = OnnxDetector(cache_folder()), AttributeReader(cache_folder())
        words = []
        for index, picture in enumerate(read_pictures(pictures)):
            known = known_words(picture.facts)
            expression = EXPRESSION_WORDS.get(picture.facts.get("expression", ""))
            faces = detector.detect(pixels[index])
            if faces:
                known += reader.read(pixels[index], faces[0], expression).words()
            words.append(known)
        cache.write_text(json.dumps(words))
    loaded: list[list[str]] = json.loads(cache.read_text())
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--minutes", type=float, default=60.0, help="training time in all, over every resume")
    parser.add_argument("--publish", type=Path, help="also write the pipeline folder here at every save")
    parser.add_argument("--init-from", type=Path, help="pipeline folder to start from where there is no state yet")
    args = parser.parse_args()

    from diffusers import DDPMScheduler
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    pixels = load_pixels(args.pictures, args.out / "pixels.npy")
    words = load_words(args.pictures, pixels, args.out / "words.json")
    latents, scale = latents_of(pixels, args.out)
    train, _ = held_out_split(len(pixels))
    if not (args.out / "tokenizer").exists():  # equally frequent pairs merge in any order: a resume keeps the first
        write_tokenizer(args.out / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(args.out / "tokenizer")
    model = torch.nn.ModuleDict({"unet": build_unet(latents.shape[2]), "text": build_text_encoder(len(tokenizer))})
    if args.init_from:
        load_published(model, args.init_from)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=running_average)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=0.01)
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    parts = {"model": model, "average": average, "optimizer": optimizer}
    state = args.out / "unet.state.pt"
    step, spent_s = checkpoint.resume(state, parts)

    started, saved_at, losses = time.monotonic() - spent_s, time.monotonic(), []
    while True:
        spent_s = time.monotonic() - started
        share = min(1.0, spent_s / (60 * args.minutes))
        rate = PEAK_LR * min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, max(0.03, (1 - share) / 0.3))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        loss = batch_loss(model, tokenizer, latents, words, train, scale, alphas, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        losses.append(loss.item())
        step += 1
        done = spent_s > 60 * args.minutes
        if done or time.monotonic() - saved_at > 180:
            saved_at = time.monotonic()
            checkpoint.save(state, parts, step, spent_s)
            line = {"step": step, "spent_s": round(spent_s), "loss": round(float(np.mean(losses[-400:])), 4)}
            checkpoint.log(args.out / "unet.jsonl", line)
            if args.publish:
                publish(args.out, args.publish, average.module, scale)
        if done:
            return


def load_published(model, folder: Path) -> None:
    """Start from the weights of a published pipeline folder; the optimizer starts anew."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    model["unet"].load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
    model["text"].load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict())


def parameter_groups(model) -> list[dict]:
    """The denoiser, its cross-attention, which has far to go, and the text encoder, with their shares of the rate."""
    unet = list(model["unet"].named_parameters())
    return [
        {"params": [p for name, p in unet if ".attn2." not in name], "share": 1.0},
        {"params": [p for name, p in unet if ".attn2." in name], "share": CROSS_ATTENTION_LR_SHARE},
        {"params": list(model["text"].parameters()), "share": TEXT_LR_SHARE},
    ]


def running_average(average: torch.Tensor, value: torch.Tensor, step: torch.Tensor | int) -> torch.Tensor:
    """Exponential average whose memory grows from 10 to AVERAGED_STEPS steps."""
    decay = min(1 - 1 / AVERAGED_STEPS, (1 + int(step)) / (10 + int(step)))
    return average.lerp(value, 1 - decay)


def batch_loss(model, tokenizer, latents, words, train, scale, alphas, step):
    """v-prediction loss of the batch that belongs to `step`.

    Every noise level weighs the same: min-SNR weights nearly silence the noisiest levels, where words decide.
    """
    rng = np.random.default_rng((2, step))
    rows = train[rng.integers(len(train), size=BATCH)]
    flips = rng.integers(2, size=BATCH)
    z = torch.from_numpy(latents[rows, flips].astype(np.float32)) * scale
    texts = tokenizer(
        [caption(mirrored(words[row]) if flip else words[row], rng) for row, flip in zip(rows, flips, strict=True)],
        padding="max_length",
        max_length=TEXT_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    generator = torch.Generator().manual_seed(step)
    noise = torch.randn(z.shape, generator=generator)
    drawn = torch.rand(BATCH, generator=generator)
    t = (1000 * NOISE_SHIFT * drawn / (1 + (NOISE_SHIFT - 1) * drawn)).long().clamp(max=999)
    signal, spread = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=resolve_precision("auto", z.device) == "bf16"):
        noisy = (signal * z + spread * noise).contiguous(memory_format=torch.channels_last)
        predicted = model["unet"](noisy, t, model["text"](texts).last_hidden_state).sample
    return (predicted.float() - (signal * noise - spread * z)).square().mean()


def publish(out: Path, folder: Path, averaged, scale: float) -> None:
    """Write an ordinary `StableDiffusionPipeline` folder, the large parts in fp16."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    vae = load_autoencoder(out)
    vae.register_to_config(scaling_factor=scale)
    halved = copy.deepcopy(averaged).eval()  # the training goes on with the full-precision ones
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=halved["text"],
        tokenizer=CLIPTokenizer.from_pretrained(out / "tokenizer"),
        unet=halved["unet"].to(memory_format=torch.contiguous_format),
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE, solver_order=2, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    part = out / "published.part"
    shutil.rmtree(part, ignore_errors=True)
    # The text encoder is small and stays fp32: transformers loads it in the type it was saved in, diffusers does not.
    vae.half(), halved["unet"].half()
    pipeline.save_pretrained(part, safe_serialization=True)
    for written in part.rglob("*"):
        if written.is_file():
            target = folder / written.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            written.replace(target)
    shutil.rmtree(part)


if __name__ == "__main__":
    main()
