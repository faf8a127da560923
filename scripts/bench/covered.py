"""How often `occluded` and `filtered` are said of faces as they are, and of the same with something laid over them.

    python scripts/bench/covered.py --pictures FOLDER_OR_PARQUET… [--most 60]

FOLDER holds photos; of a parquet file the column `image.bytes` is read. Of each source at most `--most` pictures are
drawn, by a lot that is always the same, and shrunk to at most 640 px a side. Sunglasses, cloth masks, phones, hands and
thin rims are painted over the largest face (scripts/bench/painted.py), filters are laid over the whole picture; all are
saved as JPEG of quality 90 and looked at as the stage does it, with the default limits.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from painted import COVERS, posterised, saturated, smoothed, tinted
from PIL import Image

from trainer.faces.base import Detector, get_detector
from trainer.prepare.quality import Limits, Quality, check_quality, measure
from trainer.records import RGB, Face
from trainer.sections import PrepareSection
from trainer.weights import cache_folder, fetch

SIDE_PX = 640
BLUE, SEPIA = (90, 150, 255), (255, 215, 160)
DEFAULTS = PrepareSection()
CHOICES = {name: "keep" for name in Limits.__slots__ if name.startswith("on_")} | {
    "on_occluded": "warn",
    "on_filtered": "warn",
}
LIMITS = Limits(**{name: getattr(DEFAULTS, name) for name in Limits.__slots__} | CHOICES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True)
    parser.add_argument("--most", type=int, default=60)
    args = parser.parse_args()

    fetch(cache_folder())
    detector = get_detector(cache_folder())
    print("| source | laid over | faces | lost | occluded | filtered |\n|---|---|---|---|---|---|")
    for source in args.pictures:
        found: dict[str, list[Quality | None]] = defaultdict(list)
        for index, picture in enumerate(drawn(source, args.most)):
            if (face := largest(detector, picture)) is not None:
                for name, changed in variants(picture, face, np.random.default_rng(index)):
                    found[name].append(seen(detector, changed, face))
        for name, qualities in found.items():
            print(f"| {source.name} | {name} | {row(qualities)} |", flush=True)


def drawn(source: Path, most: int) -> Iterator[RGB]:
    """At most `most` pictures of a folder or a parquet file, drawn by a fixed lot."""
    pictures: list[bytes] | list[Path]
    if source.suffix == ".parquet":
        pictures = [one["bytes"] for one in pq.read_table(source, columns=["image"])["image"].to_pylist()]
    else:
        pictures = sorted(path for path in source.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for index in np.random.default_rng(0).permutation(len(pictures))[:most]:
        one = pictures[index]
        with Image.open(io.BytesIO(one) if isinstance(one, bytes) else one) as image:
            image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
            yield np.asarray(image.convert("RGB"))


def largest(detector: Detector, picture: RGB) -> Face | None:
    faces = [face for face in detector.detect(picture) if face.score >= LIMITS.min_detection]
    return max(faces, key=lambda face: face.width, default=None)


def variants(picture: RGB, face: Face, rng: np.random.Generator) -> Iterator[tuple[str, RGB]]:
    """The picture as it is, with each thing before the face, and through each filter."""
    yield "nothing", picture
    for name, paint in COVERS.items():
        yield name, paint(picture, face.landmarks, rng)
    gray = int(np.ptp(picture.astype(np.int16), axis=2).max()) < 8
    filters = {"smoothing 50%": smoothed(0.5, face.width), "smoothing 100%": smoothed(1.0, face.width)}
    filters |= {f"{levels} levels": posterised(levels) for levels in (4, 8, 16)}
    if not gray:
        filters |= {f"saturation x{factor:g}": saturated(factor) for factor in (1.5, 2.0, 3.0)}
        filters |= {"blue 50%": tinted(0.5, BLUE), "sepia": tinted(1.0, SEPIA)}
    for name, change in filters.items():
        yield name, change(picture)


def seen(detector: Detector, picture: RGB, before: Face) -> Quality | None:
    """Numbers of the face that lies where one was before, in the picture as JPEG; None where there is none any more."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    saved = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    faces = [face for face in detector.detect(saved) if face.score >= LIMITS.min_detection]
    centre = before.landmarks.mean(0)
    near = [face for face in faces if np.linalg.norm(face.landmarks.mean(0) - centre) < before.width / 2]
    face = max(near, key=lambda one: one.width, default=None)
    return None if face is None else measure(saved, face, None)


def row(qualities: list[Quality | None]) -> str:
    """Faces, faces that are not found any more, and the shares of the others with either warning."""
    codes = [check_quality(one, LIMITS) for one in qualities if one is not None]
    said = (f"{sum(code in one for one in codes) / max(len(codes), 1):.1%}" for code in ("occluded", "filtered"))
    return f"{len(qualities)} | {len(qualities) - len(codes)} | {' | '.join(said)}"


if __name__ == "__main__":
    main()
