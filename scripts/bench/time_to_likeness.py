"""How long until the adapter looks like the person: our command beside diffusers' DreamBooth LoRA script.

    python scripts/bench/time_to_likeness.py --subjects FOLDER --diffusers FOLDER --out build/likeness [--only s01]

FOLDER of `--subjects` holds one folder of photos a person, that of `--diffusers` a checkout of the library. Its script,
`examples/dreambooth/train_dreambooth_lora.py`, runs with its README's settings (500 steps of 1, 1e-4, constant) on the
photos that our run may fit, one run after the other. Both adapters are scored by `trainer evaluate --adapter` on the
photos that our run sealed for its report, which neither has seen. Seconds are those of the whole command, from its
start to its end; ours are `trainer fit`, photos checked and sealed included, at several numbers of steps, of which the
warm-up takes a fifth, 20 at most. What `scripts/bench/subjects.py` left in `--runs` stands for the default recipe: its
seconds are those of prepare and fit.

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
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "trainer" / "bases" / "portrait_tiny"
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
    parser.add_argument("--steps", type=int, nargs="+", default=[50], help="of our fits")
    parser.add_argument("--runs", type=Path, help="OUT/runs of scripts/bench/subjects.py")
    parser.add_argument("--out", type=Path, default=Path("build/likeness"))
    args = parser.parse_args()
    names = args.only or sorted(path.name for path in args.subjects.iterdir() if path.is_dir())
    kinds = [f"ours_{steps}" for steps in args.steps] + ["default"] * bool(args.runs)
    print(header(kinds), flush=True)
    rows = []
    for name in names:
        rows.append(measured(name, args))
        print(line(name, rows[-1], kinds), flush=True)
    print(line("**mean**", {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}, kinds))


def measured(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and `of_ceiling` of the peer and of ours at each number of steps; kept in OUT/NAME.json."""
    kept = args.out / f"{name}.json"
    found: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    for steps in args.steps:
        if f"ours_{steps}_s" not in found:
            adapter, found[f"ours_{steps}_s"] = ours(name, steps, args)
            found[f"ours_{steps}"] = scored(name, adapter, args)
            kept.write_text(json.dumps(found))
    if args.runs and "default" not in found:
        run = args.runs / name / "latest"
        stages = [json.loads((run / stage / "stage.json").read_text()) for stage in ("1_prepare", "2_fit")]
        found["default_s"] = sum(stage["seconds"] for stage in stages)
        found["default"] = scored(name, run / "4_export" / f"{name}.safetensors", args)
        kept.write_text(json.dumps(found))
    if "peer_s" not in found:
        adapter, found["peer_s"] = peer(name, args)
        found["peer"] = scored(name, adapter, args)
        kept.write_text(json.dumps(found))
    return found


def ours(name: str, steps: int, args: argparse.Namespace) -> tuple[Path, float]:
    """The last checkpoint of `trainer fit`, and the seconds of the command. Deals the photos for the others."""
    out = args.out / f"ours_{steps}"
    shutil.rmtree(out / name, ignore_errors=True)
    said = [f"fit.steps={steps}", f"fit.checkpoint_every={min(100, steps)}", f"fit.warmup_steps={min(20, steps // 5)}"]
    command = ["fit", name, "--photos", str(args.subjects / name), "--out", str(out)]
    seconds = timed([sys.executable, "-m", "trainer", *command, *(part for one in said for part in ("--set", one))])
    run = out / name / "latest"
    split = json.loads((run / "1_prepare" / "split.json").read_text())
    for role in ("fit", "report"):
        folder = args.out / "dealt" / name / role
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for photo in split[role]:
            shutil.copy(args.subjects / name / photo, folder)
    from trainer.fit.checkpoint import find_checkpoints

    return find_checkpoints(run / "2_fit")[-1].adapter, seconds


def peer(name: str, args: argparse.Namespace) -> tuple[Path, float]:
    """The adapter of diffusers' script, and the seconds of its command."""
    out = args.out / "peer" / name
    shutil.rmtree(out, ignore_errors=True)
    said = README_SETTINGS | {
        "pretrained_model_name_or_path": str(BASE), "output_dir": str(out),
        "instance_data_dir": str(args.out / "dealt" / name / "fit"),
    }  # fmt: skip
    script = args.diffusers / "examples" / "dreambooth" / "train_dreambooth_lora.py"
    seconds = timed([args.peer_python, str(script), *(f"--{key}={value}" for key, value in said.items())])
    return out / "pytorch_lora_weights.safetensors", seconds


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


def header(kinds: list[str]) -> str:
    cells = ["subject", "diffusers s", "its of_ceiling"]
    for kind in kinds:
        cells += [kind.replace("ours_", "ours, steps: ") + ", s", "of_ceiling", "times as fast"]
    return "| " + " | ".join(cells) + " |\n|" + "---|" * len(cells)


def line(name: str, row: dict[str, float], kinds: list[str]) -> str:
    cells = [name, f"{row['peer_s']:.0f}", f"{row['peer']:.3f}"]
    for kind in kinds:
        cells += [f"{row[f'{kind}_s']:.0f}", f"{row[kind]:.3f}", f"{row['peer_s'] / row[f'{kind}_s']:.1f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
