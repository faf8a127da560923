"""How long stock diffusers takes for a base, in a process that has just started: one line of JSON.

    python scripts/bench/base_speed.py [--base FOLDER] [--threads 2]

`import_s`: diffusers itself. `load_s`: the pipeline folder. `picture_s`: one picture of 25 steps at guidance 4, the
first one; `next_s`: the median of three more, and `next_cpu_s` the processor time of these, over all threads. Where it
is far below `threads` times `next_s`, other work kept the cores busy: the figures then say nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEPS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=ROOT / "trainer/bases/portrait_tiny")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    started = time.perf_counter()
    import torch
    from diffusers import StableDiffusionPipeline

    imported = time.perf_counter()
    torch.set_num_threads(args.threads)
    pipeline = StableDiffusionPipeline.from_pretrained(args.base)
    loaded = time.perf_counter()
    pipeline.set_progress_bar_config(disable=True)
    seconds, cpu = [], []
    for seed in range(4):
        begun, worked = time.perf_counter(), time.process_time()
        generator = torch.Generator().manual_seed(seed)
        pipeline("photo of person", num_inference_steps=STEPS, guidance_scale=4.0, generator=generator)
        seconds.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - worked)
    line = {
        "import_s": imported - started,
        "load_s": loaded - imported,
        "picture_s": seconds[0],
        "next_s": statistics.median(seconds[1:]),
        "next_cpu_s": statistics.median(cpu[1:]),
    }
    print(json.dumps({name: round(value, 2) for name, value in line.items()} | {"threads": args.threads}))


if __name__ == "__main__":
    main()
