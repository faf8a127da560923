"""What an embedded base can do without any adapter: faces found, prompts followed, seconds a picture.

    python scripts/bench/base_model.py [--base trainer/bases/portrait_tiny] [--count 96]

The prompts are those of the score, for "person"; the probe that reads them is `trainer.faces.attributes`. Agreement is
given by the word that was asked for.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np

from trainer.bases.base import get_base
from trainer.console import Console
from trainer.evaluate.judge import look
from trainer.evaluate.prompts import report_prompts
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import get_detector, get_embedder
from trainer.weights import cache_folder, fetch

SAMPLING = {"steps": 16, "guidance": 4.0, "batch_size": 8}  # those of the score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="diffusers folder, else the embedded one")
    parser.add_argument("--count", type=int, default=104)
    args = parser.parse_args()
    fetch(cache_folder())
    started = time.monotonic()
    base = get_base("portrait-tiny", args.base)
    print(f"loaded in {time.monotonic() - started:.1f} s")
    prompts = report_prompts(base.prompt_set, "person")
    asked = [prompts[index % len(prompts)] for index in range(args.count)]
    made: dict[int, np.ndarray] = {}
    started = time.monotonic()
    with Console().progress("sampling", args.count) as tick:
        base.sample(
            [prompt.text for prompt in asked],
            list(range(args.count)),
            **SAMPLING,
            on_picture=lambda index, picture: (made.__setitem__(index, picture), tick())[0],
        )
    seconds = (time.monotonic() - started) / args.count
    pictures = [made[index] for index in range(args.count)]
    seen = look(pictures, get_detector(cache_folder()), get_embedder("onnx", cache_folder()))
    reader = AttributeReader(cache_folder())
    shown = defaultdict(list)
    for prompt, picture, face in zip(asked, pictures, seen.faces, strict=True):
        words = reader.read(picture, face).words() if face else []
        for word in prompt.expects:
            shown[word].append(word in words)
    alike = seen.cosines(seen.vectors)[np.triu_indices(args.count, 1)]
    print(f"a face is found in {seen.detected.mean():.1%} of {args.count} pictures")
    print(f"{seconds:.2f} s a picture of {SAMPLING['steps']} steps, in batches of {SAMPLING['batch_size']}")
    p99 = np.quantile(alike, 0.99)
    print(f"judge cosine of two pictures: mean {alike.mean():.3f}, 99th percentile {p99:.3f}")
    print(f"prompt followed: {np.mean([ok for oks in shown.values() for ok in oks]):.1%}")
    for word, oks in shown.items():
        print(f"  {word}: {np.mean(oks):.0%} of {len(oks)}")


if __name__ == "__main__":
    main()
