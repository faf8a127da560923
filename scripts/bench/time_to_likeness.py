"""How long until the adapter looks like the person: our command beside diffusers' DreamBooth LoRA script.

    python scripts/bench/time_to_likeness.py --subjects FOLDER --diffusers FOLDER --out build/likeness [--only s01]

FOLDER of `--subjects` holds one folder of photos a person, that of `--diffusers` a checkout of the library. Its script,
`examples/dreambooth/train_dreambooth_lora.py`, runs with its README's settings (500 steps of 1, 1e-4, constant) on the
photos that our run may fit, one run after the other. Ours is `trainer fit` with each `--recipe`, photos checked and
sealed included. Seconds are those of the whole command, from its start to its end. Then both adapters are scored by
`trainer evaluate --adapter` on the photos that our run sealed for its report, which neither has seen.

What is there already is read back, so an interrupted benchmark goes on where it stopped. `--peer-python` is for a
machine whose torchvision, which that script imports, belongs to another interpreter.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "trainer" / "bases" / "portrait_tiny"
PEER = "diffusers"
PROMPT = "photo of ohwx person"
README_SETTINGS = {
    "instance_prompt": PROMPT, "resolution": "128", "train_batch_size": "1", "gradient_accumulation_steps": "1",
    "learning_rate": "1e-4", "lr_scheduler": "constant", "lr_warmup_steps": "0", "max_train_steps": "500",
    "checkpointing_steps": "1000", "seed": "0",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--diffusers", type=Path, required=True)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--recipe", nargs="+", default=["portrait-tiny-quick"], help="of our fits")
    parser.add_argument("--out", type=Path, default=Path("build/likeness"))
    args = parser.parse_args()
    names = args.only or sorted(path.name for path in args.subjects.iterdir() if path.is_dir())
    for name in names:  # all times before the first score: they lie close together, whatever else the machine does
        for side in (*args.recipe, PEER):
            kept(name, f"{side}_s", args, lambda: run(side, name, args))  # noqa: B023
            print(name, side, f"{read(name, args)[f'{side}_s']:.0f} s", flush=True)
    print(header(args.recipe))
    rows = []
    for name in names:
        for side in (*args.recipe, PEER):
            kept(name, side, args, lambda: scored(name, adapter_of(side, name, args), args))  # noqa: B023
        rows.append(read(name, args))
        print(line(name, rows[-1], args.recipe), flush=True)
    print(line("**mean**", {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}, args.recipe))


def kept(name: str, key: str, args: argparse.Namespace, measure: Callable[[], float]) -> None:
    """Measure it, unless OUT/NAME.json has it."""
    found = read(name, args)
    if key not in found:
        found[key] = measure()
        (args.out / f"{name}.json").write_text(json.dumps(found))


def read(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and `of_ceiling` of each side, as far as they are measured."""
    file = args.out / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def run(side: str, name: str, args: argparse.Namespace) -> float:
    """Seconds of the command."""
    return peer(name, args) if side == PEER else ours(side, name, args)


def adapter_of(side: str, name: str, args: argparse.Namespace) -> Path:
    """What that command wrote: of ours, the last checkpoint."""
    if side == PEER:
        return args.out / PEER / name / "pytorch_lora_weights.safetensors"
    from trainer.fit.checkpoint import find_checkpoints

    return find_checkpoints(args.out / side / name / "latest" / "2_fit")[-1].adapter


def ours(recipe: str, name: str, args: argparse.Namespace) -> float:
    """`trainer fit`. Deals the photos for the other side."""
    out = args.out / recipe
    shutil.rmtree(out / name, ignore_errors=True)
    command = ["fit", name, "--recipe", recipe, "--photos", str(args.subjects / name), "--out", str(out)]
    seconds = timed([sys.executable, "-m", "trainer", *command])
    split = json.loads((out / name / "latest" / "1_prepare" / "split.json").read_text())
    for role in ("fit", "report"):
        folder = args.out / "dealt" / name / role
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for photo in split[role]:
            shutil.copy(args.subjects / name / photo, folder)
    return seconds


def peer(name: str, args: argparse.Namespace) -> float:
    """The script of diffusers."""
    out = args.out / PEER / name
    shutil.rmtree(out, ignore_errors=True)
    said = README_SETTINGS | {
        "pretrained_model_name_or_path": str(BASE), "output_dir": str(out),
        "instance_data_dir": str(args.out / "dealt" / name / "fit"),
    }  # fmt: skip
    script = args.diffusers / "examples" / "dreambooth" / "train_dreambooth_lora.py"
    return timed([args.peer_python, str(script), *(f"--{key}={value}" for key, value in said.items())])


def scored(name: str, adapter: Path, args: argparse.Namespace) -> float:
    """`of_ceiling` of an adapter file on the photos that our run sealed for its report."""
    command = [sys.executable, "-m", "trainer", "evaluate", name, "--adapter", str(adapter), "--json"]
    command += ["--photos", str(args.out / "dealt" / name / "report"), "--out", str(args.out / "scored")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    card = json.loads(Path(json.loads(done.stdout)["result"]["scorecard"]).read_text())
    return float(card["identity"]["of_ceiling"])


def timed(command: list[str]) -> float:
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return time.monotonic() - started


def header(recipes: list[str]) -> str:
    cells = ["subject", "diffusers s", "its of_ceiling"]
    for recipe in recipes:
        cells += [f"{recipe}, s", "of_ceiling", "times as fast"]
    return "| " + " | ".join(cells) + " |\n|" + "---|" * len(cells)


def line(name: str, row: dict[str, float], recipes: list[str]) -> str:
    cells = [name, f"{row[f'{PEER}_s']:.0f}", f"{row[PEER]:.3f}"]
    for one in recipes:
        cells += [f"{row[f'{one}_s']:.0f}", f"{row[one]:.3f}", f"{row[f'{PEER}_s'] / row[f'{one}_s']:.1f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
