"""How well each face engine tells same from different people.

    python scripts/bench/face_engines.py --people FOLDER [--each 8]

FOLDER holds one folder of photos a person, as LFW unpacks. d' is the distance of the two means in units of their
pooled standard deviation. dlib is also given without the centring that the package applies.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from trainer.faces.base import get_detector, get_embedder
from trainer.weights import cache_folder, fetch


def separation(vectors: np.ndarray, same: np.ndarray) -> str:
    """The two mean cosines and their d', over every pair once."""
    pairs = np.triu(np.ones_like(same), 1)
    cosines = vectors @ vectors.T
    alike, apart = cosines[pairs & same], cosines[pairs & ~same]
    d_prime = (alike.mean() - apart.mean()) / np.sqrt((alike.var() + apart.var()) / 2)
    return f"same {alike.mean():.3f}, different {apart.mean():.3f}, d' {d_prime:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True)
    parser.add_argument("--each", type=int, default=8, help="photos a person at most")
    args = parser.parse_args()

    fetch(cache_folder())
    detector = get_detector(cache_folder())
    found, total = [], 0
    for person in sorted(folder for folder in args.people.iterdir() if folder.is_dir()):
        for path in sorted(person.iterdir())[: args.each]:
            total += 1
            picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            faces = detector.detect(picture)
            if faces:
                found.append((person.name, picture, max(faces, key=lambda face: face.width)))
    names = np.array([name for name, _, _ in found])
    print(f"{len(found)} faces in {total} photos of {len(set(names))} people")
    same = names[:, None] == names[None, :]
    dlib = get_embedder("dlib", cache_folder())
    onnx = get_embedder("onnx", cache_folder())
    for name, embed in (("onnx", onnx.embed), ("dlib", dlib.embed), ("dlib, not centred", dlib.embed_raw)):
        vectors = np.array([embed(picture, face) for _, picture, face in found])
        print(f"{name}: {separation(vectors, same)}")


if __name__ == "__main__":
    main()
