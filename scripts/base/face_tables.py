"""Make the two small tables that the face engines stand on.

    python scripts/base/face_tables.py --pictures FOLDER

`trainer/faces/dlib_mean.safetensors`: the mean dlib descriptor of 2,000 training pictures, which centres that embedder.
`trainer/evaluate/strangers.safetensors`: embeddings of the CC0 portraits of people who do not exist, in colour and in
gray, by each engine: the floor of every likeness and the cohort that its threshold is fitted on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from pictures import framed, read_pictures
from safetensors.torch import save_file

from trainer.faces.base import get_detector, get_embedder
from trainer.weights import cache_folder

MEAN_OF = 2000
COHORT = "portrait-cc0"
COHORT_ENGINES = ("onnx", "dlib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path("trainer"))
    args = parser.parse_args()
    pictures = list(read_pictures(args.pictures))
    mean_file = args.package / "faces/dlib_mean.safetensors"
    if not mean_file.exists():
        chosen = np.random.default_rng(0).permutation(len(pictures))[:MEAN_OF]
        rows = embeddings("dlib", [framed(pictures[i]) for i in chosen], centred=False)
        save_file({"mean": rows.mean(0)}, mean_file)
    strangers = [framed(picture, 256) for picture in pictures if picture.source == COHORT]
    strangers += [np.repeat(p.mean(2, keepdims=True), 3, 2).astype(np.uint8) for p in strangers]
    table = {engine: embeddings(engine, strangers).half() for engine in COHORT_ENGINES}
    save_file(table, args.package / "evaluate/strangers.safetensors")
    print({engine: tuple(rows.shape) for engine, rows in table.items()})


def embeddings(engine: str, pictures: list[np.ndarray], centred: bool = True) -> torch.Tensor:
    """(n, d) float32 of the pictures in which a face is found."""
    detector = get_detector(cache_folder())
    embedder = get_embedder(engine, cache_folder())
    embed = embedder.embed if centred else embedder.embed_raw
    found = [(picture, detector.detect(picture)) for picture in pictures]
    return torch.from_numpy(np.stack([embed(picture, faces[0]) for picture, faces in found if faces]))


if __name__ == "__main__":
    main()
