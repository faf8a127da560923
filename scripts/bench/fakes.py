"""Where honest adapters and fakes lie on the numbers that tell them apart.

    python scripts/bench/fakes.py --runs build/bench/runs --subjects FOLDER

`--runs` is what `scripts/bench/subjects.py` left, `--subjects` the photos that it was given. Measured with the judge:
`detail.change` of the adapter's pictures and of the fit samples blurred by some pixels and sharpened again;
`copying.any_excess` of the adapter's pictures, of sealed photos against all others, and of the fit samples themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from trainer.evaluate.copying import any_excess
from trainer.evaluate.detail import detail
from trainer.evaluate.judge import Seen, look, look_at_album
from trainer.faces.base import Detector, Embedder, get_detector, get_embedder
from trainer.prepare.stage import read_framed, read_split
from trainer.records import RGB
from trainer.weights import cache_folder

BLURS = (1.5, 2.0, 2.5)  # sigma in pixels
MAX_PIXELS = 10**8
HEADER = [
    "subject", "detail: adapter", *(f"blur of {sigma:g} px, sharpened" for sigma in BLURS),
    "any_excess: adapter", "unseen photos", "copies",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--subjects", type=Path, required=True)
    args = parser.parse_args()
    detector, judge = get_detector(cache_folder()), get_embedder("onnx", cache_folder())
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for folder in sorted(path for path in args.runs.iterdir() if path.is_dir()):
        values = measured(folder / "latest", args.subjects / folder.name, detector, judge)
        print(f"| {folder.name} | " + " | ".join(f"{value:.2f}" for value in values) + " |", flush=True)


def measured(run: Path, photos: Path, detector: Detector, judge: Embedder) -> list[float]:
    """The row of one run, in the order of HEADER."""
    split = read_split(run / "1_prepare")
    names = [*split.fit, *split.select, *split.report]
    album = look_at_album({n: photos / n for n in names}, read_framed(run / "1_prepare"), MAX_PIXELS, detector, judge)
    adapter, base, samples = (
        pictures((run / part).glob("*.png"))
        for part in ("3_evaluate/samples/adapter", "3_evaluate/samples/base", "1_prepare/images")
    )
    seen = [look(some, detector, judge) for some in (adapter, base, samples)]
    floor = number(detail(base, seen[1].faces))
    blurred = [detail([spoilt(sample, sigma) for sample in samples], seen[2].faces) for sigma in BLURS]
    unseen = Seen(album.of(split.report), (seen[0].faces[0],) * len(split.report))
    others = [*split.fit, *split.select]
    return [
        number(detail(adapter, seen[0].faces)) - floor,
        *(number(one) - floor for one in blurred),
        number(any_excess(seen[0], album.of(names), names, split.groups)),
        number(any_excess(unseen, album.of(others), others, split.groups)),
        number(any_excess(seen[2], album.of(names), names, split.groups)),
    ]


def number(value: float | None) -> float:
    """The value; nan where there is none, such as the detail of pictures without a face."""
    return np.nan if value is None else value


def pictures(files: Iterable[Path]) -> list[RGB]:
    return [np.asarray(Image.open(file).convert("RGB")) for file in sorted(files)]


def spoilt(rgb_u8: RGB, sigma: float) -> RGB:
    """Blurred, and sharpened so that the variance of the Laplacian is high again."""
    blurred = Image.fromarray(rgb_u8).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(blurred.filter(ImageFilter.UnsharpMask(2, 300, 0)))


if __name__ == "__main__":
    main()
