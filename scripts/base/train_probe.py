"""Fit the lines that tell women from men in an embedder's vectors, for the evaluation's test of other people.

    python scripts/base/train_probe.py --pictures FOLDER [--cache build/base]

`trainer/evaluate/sexes.safetensors` holds a line an engine, fitted on the training pictures whose source says the sex.
How often it is right is printed for the held-out pictures, the base's own size and framing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from captions import SEX_WORDS
from kept_faces import embedded
from pictures import held_out_split, load_pixels, people_of, read_pictures
from safetensors.torch import save_file

from trainer.weights import cache_folder

ENGINES = ("onnx", "dlib")
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("build/base"), help="of the decoded pictures")
    parser.add_argument("--package", type=Path, default=Path("trainer"))
    args = parser.parse_args()
    pixels = load_pixels(args.pictures, args.cache / "pixels.npy")
    said = np.array([SEX_WORDS.get(picture.facts.get("sex", ""), "") for picture in read_pictures(args.pictures)])
    rows = np.flatnonzero(said != "")
    women = said[rows] == "woman"
    split = held_out_split(people_of(args.pictures))
    lines = {}
    for engine in ENGINES:
        vectors = embedded(pixels[rows], engine, cache_folder(), args.cache / "probe")
        trained, held_out = (
            np.flatnonzero(np.isin(rows, part) & vectors.any(1)) for part in (split.train, split.held_out)
        )
        line = two_sided(vectors[trained], women[trained])
        lines[engine] = torch.from_numpy(line.astype(np.float32))
        right = (vectors[held_out] @ line[:-1] + line[-1] > 0) == women[held_out]
        print(f"{engine}: fitted on {len(trained)}; right for {words(right, women[held_out])}")
    save_file(lines, args.package / "evaluate/sexes.safetensors")


def two_sided(vectors: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]) -> Floats:
    """(d + 1,) weights of a line between two classes: least squares on 1 and -1, both classes of equal weight.

    A row's score is `vector @ weights[:-1] + weights[-1]`, above 0 where `labels` would be true.
    """
    rows = np.column_stack([vectors, np.ones(len(vectors))]).astype(np.float64)
    weight = np.sqrt(np.where(labels, 0.5 / max(labels.sum(), 1), 0.5 / max((~labels).sum(), 1)))[:, None]
    weights: Floats = np.linalg.lstsq(rows * weight, np.where(labels, 1.0, -1.0) * weight[:, 0], rcond=1e-6)[0]
    return weights


def words(right: npt.NDArray[np.bool_], women: npt.NDArray[np.bool_]) -> str:
    """Shares of the held-out pictures, by sex."""
    parts = [(name, right[women == is_woman]) for name, is_woman in (("women", True), ("men", False))]
    return ", ".join(f"{oks.mean():.1%} of {len(oks)} {name}" for name, oks in parts)


if __name__ == "__main__":
    main()
