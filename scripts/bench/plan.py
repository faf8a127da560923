"""What `trainer plan` predicts beside what a fit holds: peak memory of the steps, at real widths and reduced depth.

    python scripts/bench/plan.py --base sd15 --precision fp32 --steps 3
    python scripts/bench/plan.py --base sdxl --depth 1 --precision fp32 --steps 3
    python scripts/bench/plan.py --base flux1 --depth 1 --precision fp32 --steps 3

The denoiser has the width of the published one, `--depth N` of its layers, and random weights; VAE and text encoders
are tiny, since neither works during a step. Prediction and fit each run in a fresh process, one after the other, on
the CPU.
The peak is the resident memory at its most from the end of the first step on; `whole` also has the loading before it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from step_time import ROOT, forget_peak, peak_bytes, sample, save_base

sys.path.insert(0, str(ROOT / "tests"))  # the tiny encoders and VAEs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=("sd15", "sdxl", "flux1"), default="sd15")
    parser.add_argument("--depth", type=int, help="layers, or transformer blocks a layer; else all")
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--set", action="append", default=[], help="as of trainer plan")
    parser.add_argument("--side", choices=("predicted", "measured"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.blocks = args.depth
    if args.side:
        print(json.dumps({"predicted": predicted, "measured": measured}[args.side](args)))
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        save = save_flux if args.base == "flux1" else save_base
        machine = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
        print(machine, *sys.argv[1:])
        print(f"{args.base}: {save(args, Path(name) / 'base') / 1e6:.0f} M parameters", flush=True)
        found = {}
        for side in ("predicted", "measured"):
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[side] = json.loads(done.stdout.splitlines()[-1])
            print(side, json.dumps(found[side]), flush=True)
        for peak in ("peak_gb", "whole_gb"):
            print(f"predicted / measured, {peak}: {found['predicted'][peak] / found['measured'][peak]:.3f}")


def recipe_of(args: argparse.Namespace) -> Any:
    from trainer.recipe import load_recipe

    said = {
        "base.path": args.folder / "base", "base.size_px": args.px, "fit.steps": args.steps,
        "fit.checkpoint_every": args.steps, "fit.batch_size": 1, "fit.rank": 16, "fit.alpha": 16,
        "fit.targets": "attention", "fit.prior_batch": 0, "fit.wordings": 1, "fit.mirror": "false",
        "fit.precision": args.precision,
    }  # fmt: skip
    name = {"flux1": "flux1-dev"}.get(args.base, args.base)
    return load_recipe(name, [*(f"{key}={value}" for key, value in said.items()), *args.set]).recipe


def predicted(args: argparse.Namespace) -> dict[str, Any]:
    from trainer.fit.plan import estimate
    from trainer.jobs import fit_settings

    recipe = recipe_of(args)
    found = estimate(recipe.base.model_dump(), fit_settings(recipe), args.precision, torch.device("cpu"))
    said = {name: getattr(found, name) for name in ("process", "frozen", "adapter", "step", "holes")}
    said |= {"peak": found.fitting, "whole": found.peak}
    return {f"{name}_gb": round(value / 1e9, 3) for name, value in said.items()}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    from trainer.bases.base import get_base
    from trainer.console import Console
    from trainer.fit import stage
    from trainer.jobs import fit_settings

    recipe = recipe_of(args)
    base, console, before, times = (
        get_base(**recipe.base.model_dump(), precision=args.precision),
        Console(quiet=True),
        [],
        [],
    )

    @contextmanager
    def progress(label: str, total: int):
        def tick(done: int = 1, note: str = "") -> None:
            if label == "fitting" and not note:
                times.append(time.monotonic())
                if len(times) == 2:
                    before.append(peak_bytes())
                    forget_peak()

        yield tick

    console.progress = progress
    (args.folder / "run").mkdir()
    stage.fit(sample(args.folder, base.size_px), base, fit_settings(recipe), args.folder / "run", console)
    peak = peak_bytes()
    step_s = round((times[-1] - times[1]) / (len(times) - 2), 2)
    return {"peak_gb": round(peak / 1e9, 3), "whole_gb": round(max(before[0], peak) / 1e9, 3), "step_s": step_s}


def save_flux(args: argparse.Namespace, folder: Path) -> int:
    """Write a pipeline folder whose transformer has the published width; the number of its parameters."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from tiny_bases import autoencoder, clip_text, clip_tokenizer, t5_text, t5_tokenizer

    torch.manual_seed(0)
    depth = {"num_layers": args.depth, "num_single_layers": 2 * args.depth} if args.depth else {}
    torch.set_default_dtype(torch.bfloat16 if args.precision == "bf16" else torch.float32)
    transformer = FluxTransformer2DModel(guidance_embeds=True, **depth)
    torch.set_default_dtype(torch.float32)
    folder.mkdir()
    tokenizer, letters = clip_tokenizer(folder / "words"), t5_tokenizer()
    pipeline = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), autoencoder(16, 0.3611, 0.1159),
        clip_text(len(tokenizer), projected=False, width=768), tokenizer, t5_text(len(letters), 4096), letters,
        transformer,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return sum(parameter.numel() for parameter in transformer.parameters())


if __name__ == "__main__":
    main()
