"""What a step costs at real shapes: our loop beside the bare forward and backward pass with the same adapter, and
beside the scripts of diffusers and kohya.

    python scripts/bench/step_time.py --base sd15 --steps 6 [--diffusers FOLDER] [--kohya FOLDER]
    python scripts/bench/step_time.py --base sdxl --blocks 2 --px 512

The UNet has the full configuration (`--blocks N`: at most N transformer blocks a layer, to fit a small machine) and
random weights; so has the VAE, with which diffusers' scripts encode the picture in every step, and the text encoder of
sd15, which reads the prompt there as often. Those of sdxl are tiny: its script reads the prompt once. One sample a
step, no prior. Each side runs in a process of its own, one after the other; the first step, which warms up, does not
count. `--diffusers` names a checkout of that library: its `train_dreambooth_lora.py` or `_sdxl.py` gets the same base,
picture, rank and precision, else its defaults. `--kohya` names one of kohya-ss/sd-scripts: its `train_network.py` gets
them too, with cached latents, torch's own attention and the UNet alone, as ours. Each may have an interpreter of its
own, with the versions that it asks for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
SD15 = {"sample_size": 64, "cross_attention_dim": 768}
SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=("sd15", "sdxl"), default="sd15")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--px", type=int)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--targets", choices=("attention", "attention+conv"), default="attention")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--diffusers", type=Path, help="also time the script of this checkout")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of that script")
    parser.add_argument("--kohya", type=Path, help="also time sd-scripts of this checkout (sd15)")
    parser.add_argument("--kohya-python", default=sys.executable, help="interpreter of sd-scripts")
    parser.add_argument("--side", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps({"ours": ours, "bare": bare}[args.side](args)))
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Both sides, then one line of each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = save_base(args, folder / "base")
        print(f"{args.base}: {parameters / 1e6:.0f} M parameters, {args.precision}, {torch.get_num_threads()} threads")
        print(f"{platform.machine()}, torch {torch.__version__}, {json.dumps(vars(args), default=str)}")
        found = {}
        for side in ("bare", "ours"):
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[side] = json.loads(done.stdout.splitlines()[-1])
            print(side, json.dumps(found[side]), flush=True)
        for peer, script in (("diffusers", diffusers_script), ("kohya", kohya_script)):
            if getattr(args, peer):
                found[peer] = script(args, folder)
                print(peer, json.dumps(found[peer]), flush=True)
                print(f"{peer} / ours: {found[peer]['median_s'] / found['ours']['median_s']:.3f}", flush=True)
        print(f"ours / bare: {found['ours']['median_s'] / found['bare']['median_s']:.3f}")


def ours(args: argparse.Namespace) -> dict:
    """`trainer.fit.stage.fit` with the recipe of that base."""
    said = {"batch_size": 1, "rank": RANK, "alpha": RANK, "targets": args.targets, "wordings": 1}
    return timed_fit(args.base, load(args), args.steps, args.folder, said)


def timed_fit(name: str, base: Any, steps: int, folder: Path, said: dict[str, object]) -> dict:
    """A fit on one picture, without a prior, with the recipe of that name but for what is `said` of its section fit."""
    from trainer.console import Console
    from trainer.fit import stage
    from trainer.recipe import load_recipe

    said |= {"steps": steps + 1, "checkpoint_every": steps + 1, "prior_batch": 0, "mirror": "false"}
    recipe = load_recipe(name, [f"fit.{key}={value}" for key, value in said.items()]).recipe.fit
    values = {key: getattr(recipe, key) for key in stage.Settings.__slots__ if key != "trigger"}
    console, times = Console(quiet=True), []

    @contextmanager
    def progress(label: str, total: int):
        def tick(done: int = 1, note: str = "") -> None:
            if label == "fitting" and not note:
                times.append(time.monotonic())
                if len(times) == 1:
                    forget_peak()

        yield tick

    console.progress = progress
    (folder / "ours").mkdir()
    stage.fit(sample(folder, base.size_px), base, stage.Settings("ohwx", **values), folder / "ours", console)
    return said_of(times)


def bare(args: argparse.Namespace) -> dict:
    """The denoiser with the same adapter, forward and backward, on one fixed input; nothing else."""
    from peft import LoraConfig, inject_adapter_in_model

    base = load(args)
    latents = torch.randn(1, 4, base.size_px // 8, base.size_px // 8)
    text = base.encode_texts(["photo of ohwx person"])
    base.release()
    targets = base.lora_targets(args.targets)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets), base.denoiser)
    for parameter in base.denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    base.denoiser.train()
    forget_peak()
    times = [time.monotonic()]
    for _ in range(args.steps + 1):
        base.predict(latents, torch.tensor([500]), text).square().mean().backward()
        base.denoiser.zero_grad(set_to_none=True)
        times.append(time.monotonic())
    return said_of(times)


def diffusers_script(args: argparse.Namespace, folder: Path) -> dict:
    """`examples/dreambooth/train_dreambooth_lora.py`, or its twin for SDXL."""
    said = {
        "pretrained_model_name_or_path": folder / "base", "instance_data_dir": pictures_of(folder, "pictures"),
        "instance_prompt": "photo of ohwx person", "resolution": args.px or 512, "train_batch_size": 1, "rank": RANK,
        "max_train_steps": args.steps + 1, "mixed_precision": mixed(args), "output_dir": folder / "peer",
    }  # fmt: skip
    twin = {"sd15": "", "sdxl": "_sdxl"}[args.base]
    script = args.diffusers / "examples" / "dreambooth" / f"train_dreambooth_lora{twin}.py"
    return watched([args.peer_python, str(script), *(f"--{key}={value}" for key, value in said.items())])


def kohya_script(args: argparse.Namespace, folder: Path) -> dict:
    """`train_network.py` of sd-scripts; the tokenizer lies where it would keep the hub's."""
    pictures = pictures_of(folder, "kohya/100_ohwx person")
    write_tokenizer(folder / "base" / "tokenizer", folder / "tokenizers" / "openai_clip-vit-large-patch14")
    said = {
        "pretrained_model_name_or_path": folder / "base", "tokenizer_cache_dir": folder / "tokenizers",
        "train_data_dir": pictures.parent, "resolution": args.px or 512, "output_dir": folder / "peer",
        "network_module": "networks.lora", "network_dim": RANK, "network_alpha": RANK, "train_batch_size": 1,
        "max_train_steps": args.steps + 1, "mixed_precision": mixed(args), "save_model_as": "safetensors",
    }  # fmt: skip
    flags = ("--cache_latents", "--network_train_unet_only", "--sdpa")
    command = [args.kohya_python, "train_network.py", *(f"--{key}={value}" for key, value in said.items()), *flags]
    return watched(command, args.kohya)


def write_tokenizer(source: Path, folder: Path) -> None:
    """The same tokenizer in the two files that transformers 4 reads."""
    shutil.copytree(source, folder)
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def pictures_of(folder: Path, name: str) -> Path:
    """A folder of the one picture alone."""
    pictures = folder / name
    pictures.mkdir(parents=True)
    shutil.copy(folder / "0.png", pictures)
    return pictures


def mixed(args: argparse.Namespace) -> str:
    """The precision as accelerate spells it."""
    return {"bf16": "bf16", "fp32": "no"}[args.precision]


def watched(command: list[str], folder: Path | None = None) -> dict:
    """A script, timed by what its progress bar says and watched from outside."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0) as process:
        times, line, peak, all_said = [], b"", 0, b""
        while piece := process.stderr.read(1):
            line = b"" if piece in b"\r\n" else line + piece
            all_said += piece
            shown = re.search(rb"[Ss]teps:.* (\d+)/\d+ \[$", line) if piece == b"[" else None
            if shown and int(shown[1]) == len(times) + 1:
                times.append(time.monotonic())
                peak = peak_bytes(process.pid)
                if len(times) == 1:
                    forget_peak(process.pid)
    if process.returncode != 0:
        raise SystemExit(all_said.decode(errors="replace")[-3000:])
    return said_of(times) | {"peak_gb": round(peak / 1e9, 2)}


def load(args: argparse.Namespace):
    from trainer.bases.base import get_base

    return get_base(args.base, str(args.folder / "base"), precision=args.precision, size_px=args.px)


def save_base(args: argparse.Namespace, folder: Path) -> int:
    """Write a pipeline folder whose UNet is the real one; the number of its parameters."""
    from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    config = dict({"sd15": SD15, "sdxl": SDXL}[args.base])
    if args.blocks:
        layers = config.get("transformer_layers_per_block", (1,) * 4)
        config["transformer_layers_per_block"] = tuple(min(count, args.blocks) for count in layers)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if args.precision == "bf16" else torch.float32)
    unet = UNet2DConditionModel(**config)
    torch.set_default_dtype(torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "trainer/bases/portrait_tiny/tokenizer")

    real = args.base == "sd15"

    def encoder(width: int, kind: type) -> torch.nn.Module:
        return kind(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3072 if real else 64,
                num_hidden_layers=12 if real else 2, num_attention_heads=12 if real else 8, projection_dim=width,
                max_position_embeddings=tokenizer.model_max_length, eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip

    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
    )  # fmt: skip
    parts = {"vae": vae, "tokenizer": tokenizer, "unet": unet, "text_encoder": encoder(768, CLIPTextModel)}
    parts["scheduler"] = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    if args.base == "sdxl":
        parts |= {"text_encoder_2": encoder(1280, CLIPTextModelWithProjection), "tokenizer_2": tokenizer}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
    pipelines = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
    for name, part in parts.items():
        if part is not None:
            part.save_pretrained(folder / name)
    index = {name: part and [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    index = {name: entry or [None, None] for name, entry in index.items()}
    folder.joinpath(DiffusionPipeline.config_name).write_text(
        json.dumps({"_class_name": pipelines[args.base], **index})
    )
    return sum(parameter.numel() for parameter in unet.parameters())


def sample(folder: Path, size_px: int) -> Path:
    """A prepared imagefolder of one picture of noise."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")
    row = {"file_name": "0.png", "text": "photo of ohwx person", "face_box": [0.2, 0.2, 0.8, 0.8]}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def said_of(times: list[float]) -> dict:
    """Seconds a step after the first, and the most memory held during the steps."""
    steps = [after - before for before, after in itertools.pairwise(times[1:])]
    return {
        "median_s": round(statistics.median(steps), 3),
        "min_s": round(min(steps), 3),
        "max_s": round(max(steps), 3),
        "peak_gb": round(peak_bytes() / 1e9, 2),
    }


def forget_peak(process: int | str = "self") -> None:
    """From here on, the peak is that of the steps and no longer that of loading."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_bytes(process: int | str = "self") -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    (line,) = (row for row in Path(f"/proc/{process}/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
