"""Make the demo subject: photos of one person who does not exist, with the embedded base.

    python scripts/demo_subject.py --base trainer/bases/portrait_tiny --out subjects/demo

One portrait is sampled. Its own noise, mixed with a little of some other noise and asked for other poses, moods and
lights, gives more pictures; those that the gate takes for one person, with the whole face in the frame, are the photos,
each relit, tilted and cut a little, as another room and camera would have it. The judge has no say in any of it; its
pairwise cosines are reported.

Every picture is kept in WORK, in a folder a base and seed: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from trainer.bases.base import get_base
from trainer.bases.files import Source, load_pipeline
from trainer.console import Console
from trainer.evaluate.judge import Seen, look
from trainer.faces.align import crop_square
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import get_detector, get_embedder
from trainer.weights import cache_folder

SUBJECT = "woman, young, color photo"
POSES = ("facing front", "turned left", "turned right")
EXPRESSIONS = ("smiling", "neutral expression")
LIGHTS = ("even light", "light from the left", "light from the right", "bright")
PROMPTS = [f"{pose}, {mood}, {light}" for pose in POSES for mood in EXPRESSIONS for light in LIGHTS]
SAMPLING = {"num_inference_steps": 20, "guidance_scale": 4.0}
PORTRAITS = 16
OTHER_NOISE = (0.1, 0.2, 0.3, 0.4)  # its share of the variance, a picture each
SAME_PERSON = 0.45  # the gate's cosine to the first portrait
CONSENSUS = 0.6  # and to the mean of those
LOWEST_MOUTH = 0.8  # of the picture's height
TILT_DEG, CLOSEST, SIDE_LIGHT = 5.0, 0.9, 0.2
PHOTOS = 24
PHOTO_PX = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="trainer/bases/portrait_tiny", help="diffusers folder of the embedded base")
    parser.add_argument("--out", type=Path, default=Path("subjects/demo"))
    parser.add_argument("--work", type=Path, default=Path("build/demo"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    maker = Maker(args.base, args.work, args.seed)
    maker.write(maker.spread(maker.variants(*maker.portrait())), args.out)


class Maker:
    """The base, the face models and the steps from one portrait to the photos."""

    def __init__(self, base: str, work: Path, seed: int) -> None:
        self.seed = seed
        self.console = Console()
        self.base = get_base("portrait-tiny", base)
        self.pipeline = load_pipeline(StableDiffusionPipeline, Source(base), safety_checker=None)
        self.pipeline.set_progress_bar_config(disable=True)
        self.work = work / f"{self.base.sha256[:12]}-{seed}"
        self.detector = get_detector(cache_folder())
        self.gate = get_embedder("dlib", cache_folder())
        self.judge = get_embedder("onnx", cache_folder())
        self.attributes = AttributeReader(cache_folder())

    def portrait(self) -> tuple[np.ndarray, torch.Tensor]:
        """The sharpest of some portraits with one face that looks at the camera in even light, and its noise."""
        prompt = f"photo of {SUBJECT}, facing front, neutral expression, even light, plain background"
        noises = [self.noise(index) for index in range(PORTRAITS)]
        scored = []
        for picture, noise in zip(self.sample([prompt] * PORTRAITS, noises, "portraits"), noises, strict=True):
            faces = self.detector.detect(picture)
            if len(faces) == 1 and self.attributes.read(picture, faces[0]).pose == "facing front":
                sharp = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()
                scored.append((faces[0].score > 0.95, sharp, picture, noise))
        if not scored:
            raise SystemExit(
                f"none of {PORTRAITS} portraits shows one face from the front; try another --seed or --base"
            )
        return max(scored, key=lambda row: row[:2])[2:]

    def variants(self, portrait: np.ndarray, own: torch.Tensor) -> list[np.ndarray]:
        """Pictures of the same person, as the gate sees it, in every pose, mood and light asked for."""
        jobs = [(words, share) for words in PROMPTS for share in OTHER_NOISE]
        noises = [mixed(own, self.noise(PORTRAITS + index), share) for index, (_, share) in enumerate(jobs)]
        made = self.sample([f"photo of {SUBJECT}, {words}" for words, _ in jobs], noises, "variants")
        alike = self.same_person(made, self.gate.embed(portrait, self.detector.detect(portrait)[0]), SAME_PERSON)
        mean = look(alike, self.detector, self.gate).vectors.mean(0)
        kept = self.same_person(alike, mean / np.linalg.norm(mean), CONSENSUS)
        self.console.say(f"{len(kept)} of {len(made)} pictures are the same person to the gate")
        return kept

    def spread(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """`PHOTOS` of them, each mood and pose that the probe reads in turn."""
        kinds: dict[tuple[str | None, str | None], list[np.ndarray]] = {}
        for picture in pictures:
            if self.whole(picture):
                shown = self.attributes.read(picture, self.detector.detect(picture)[0])
                kinds.setdefault((shown.expression, shown.pose), []).append(picture)
        chosen: list[np.ndarray] = []
        while len(chosen) < PHOTOS and any(kinds.values()):
            chosen += [rows.pop() for rows in kinds.values() if rows][: PHOTOS - len(chosen)]
        return chosen

    def write(self, pictures: list[np.ndarray], out: Path) -> None:
        """The photos as JPEG, consent.toml, and made.json with what they measure."""
        rng = np.random.default_rng(self.seed)
        folder = out / "photos"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for index, picture in enumerate(pictures):
            photo = self.reframed(self.relit(picture, index % 3 - 1, rng), rng)
            Image.fromarray(photo).save(folder / f"demo-{index:02d}.jpg", quality=92)
        photos = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
        seen = look(photos, self.detector, self.judge)
        shown = [self.attributes.read(photo, face).words() for photo, face in zip(photos, seen.faces, strict=True)]
        report = {
            "what": "photos of a person who does not exist, made by scripts/demo_subject.py",
            "base_sha256": self.base.sha256,
            "seed": self.seed,
            "photos": len(photos),
            "shows": dict(Counter(word for words in shown for word in words)),
            "pairwise_judge_cosine": pairwise(seen),
            "pairwise_gate_cosine": pairwise(look(photos, self.detector, self.gate)),
        }
        (out / "made.json").write_text(json.dumps(report, indent=2) + "\n")
        (folder / "consent.toml").write_text(
            'given_by = "nobody: this person does not exist"\npurpose = "demo, tests, benchmarks"\n'
        )
        print(json.dumps(report, indent=2))

    def relit(self, picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
        """Brighter on one side, and brighter or darker as a whole."""
        ramp = 1 + side * SIDE_LIGHT * np.linspace(1, -1, picture.shape[1])[None, :, None]
        return (255 * np.clip(picture / 255 * ramp, 0, 1) ** rng.uniform(0.8, 1.25)).round().astype(np.uint8)

    def reframed(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The picture at 256 px, tilted and cut a little, the chin always in it."""
        centre = (picture.shape[1] / 2, picture.shape[0] / 2)
        tilt = cv2.getRotationMatrix2D(centre, rng.uniform(-TILT_DEG, TILT_DEG), 1.0)
        tilted = cv2.warpAffine(
            picture, tilt, picture.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        side = 128 * rng.uniform(CLOSEST, 1.0)
        return crop_square(tilted, rng.uniform(0, 128 - side), 128 - side, side, PHOTO_PX)

    def whole(self, picture: np.ndarray) -> bool:
        """Whether one face is found and its mouth is high enough for the chin to be in the picture."""
        faces = self.detector.detect(picture)
        return len(faces) == 1 and float(faces[0].landmarks[3:, 1].max()) < LOWEST_MOUTH * picture.shape[0]

    def noise(self, index: int) -> torch.Tensor:
        """(channels, side, side) unit noise."""
        shape = self.pipeline.unet.config.in_channels, *[self.pipeline.unet.config.sample_size] * 2
        return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * self.seed + index))

    def sample(self, prompts: list[str], noises: list[torch.Tensor], label: str) -> list[np.ndarray]:
        """A picture of each prompt and noise, made alone, so that it is the same after a stop."""
        files = [self.work / label / f"{index:04d}.png" for index in range(len(prompts))]
        for prompt, noise, file in self.console.track(
            list(zip(prompts, noises, files, strict=True)), label, len(files)
        ):
            if not file.exists():
                (picture,) = self.pipeline(prompt, latents=noise[None], output_type="np", **SAMPLING).images
                keep(file, (picture * 255).round().astype(np.uint8))
        return [np.asarray(Image.open(file)) for file in files]

    def same_person(self, pictures: list[np.ndarray], vector: np.ndarray, least: float) -> list[np.ndarray]:
        """Those of the pictures whose largest face is as like `vector` to the gate."""
        cosines = look(pictures, self.detector, self.gate).cosines(vector[None])[:, 0]
        return [picture for picture, cosine in zip(pictures, cosines, strict=True) if cosine >= least]


def mixed(own: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """Unit noise of two; `share`, 0 to 1, is the other's part of the variance."""
    return (1 - share) ** 0.5 * own + share**0.5 * other


def keep(file: Path, picture: np.ndarray) -> None:
    """Write a (height, width, 3) uint8 picture, all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    Image.fromarray(picture).save(part, format="png")
    part.replace(file)


def pairwise(seen: Seen) -> dict[str, float]:
    """Mean, lowest and highest cosine between different pictures."""
    cosines = seen.cosines(seen.vectors)[np.triu_indices(len(seen.faces), 1)]
    return {
        "mean": round(float(cosines.mean()), 3),
        "min": round(float(cosines.min()), 3),
        "max": round(float(cosines.max()), 3),
    }


if __name__ == "__main__":
    main()
