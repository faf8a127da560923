"""Make the demo subject: photos of one person who does not exist, with the embedded base.

    python scripts/demo_subject.py --base trainer/bases/portrait_tiny --out subjects/demo

One portrait is sampled, varied by partial noising (SDEdit, arXiv 2108.01073) with other prompts, and the variants that
the gate still takes for the same person fit an adapter. Its pictures, asked for in other poses, moods and lights, are
the photos where the gate finds the same person and the whole face lies in the frame, each relit, tilted and cut a
little, as another room and camera would have it. The judge has no say in any of it; its pairwise cosines are reported.

Every picture and the fit are kept in WORK, in a folder a base and seed: a stopped run goes on.
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
from PIL import Image

from trainer.bases.base import get_base, resolve_precision
from trainer.console import Console
from trainer.evaluate.judge import Seen, look
from trainer.faces.align import crop_square
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import get_detector, get_embedder
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.stage import Settings, fit
from trainer.weights import cache_folder

SUBJECT = "woman, young, color photo"
POSES = ("facing front", "turned left", "turned right")
EXPRESSIONS = ("smiling", "neutral expression")
LIGHTS = ("even light", "light from the left", "light from the right", "bright")
PROMPTS = [f"{pose}, {mood}, {light}" for pose in POSES for mood in EXPRESSIONS for light in LIGHTS]
SAMPLING = {"steps": 20, "guidance": 2.0, "batch_size": 8}
VARIANTS_PER_PROMPT = 3
STRENGTHS = (0.4, 0.5, 0.6)
SAME_PERSON = 0.45  # the gate's cosine to the first portrait
CONSENSUS = 0.7  # and of the adapter's pictures to their mean
LOWEST_MOUTH = 0.8  # of the picture's height
TILT_DEG, CLOSEST, SIDE_LIGHT = 5.0, 0.9, 0.2
FIT = Settings(
    trigger="ohwx", steps=240, batch_size=8, checkpoint_every=240, rank=16, alpha=16, targets="attention+conv",
    learning_rate=1e-3, warmup_steps=20, weight_decay=0.01, min_snr_gamma=None, face_weight=2.0, caption_dropout=0.0,
    wordings=4, word_dropout=0.5, prior_batch=4, prior_rows=192, prior_pictures=0, mirror=True, max_grad_norm=1.0,
    seed=0,
)  # fmt: skip
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
    portrait = maker.portrait()
    variants = maker.variants(portrait)
    adapter = maker.adapter([(portrait, "facing front"), *variants])
    pictures = maker.pictures(adapter)
    maker.write(maker.spread(pictures), args.out)


class Maker:
    """The base, the face models and the steps from one portrait to the photos."""

    def __init__(self, base: str, work: Path, seed: int) -> None:
        self.base_folder, self.seed = base, seed
        self.console = Console()
        self.base = get_base("portrait-tiny", base)
        self.work = work / f"{self.base.sha256[:12]}-{seed}"
        self.detector = get_detector(cache_folder())
        self.gate = get_embedder("dlib", cache_folder())
        self.judge = get_embedder("onnx", cache_folder())
        self.attributes = AttributeReader(cache_folder())

    def portrait(self) -> np.ndarray:
        """The sharpest of 16 portraits with one face that looks at the camera in even light."""
        prompt = f"photo of {SUBJECT}, facing front, neutral expression, even light, plain background"
        pictures = self.sample([prompt] * 16, [1000 * self.seed + i for i in range(16)], "portraits")
        scored = []
        for picture in pictures:
            faces = self.detector.detect(picture)
            if len(faces) == 1 and self.attributes.read(picture, faces[0]).pose == "facing front":
                sharp = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()
                scored.append((faces[0].score > 0.95, sharp, picture))
        return max(scored, key=lambda row: row[:2])[2]

    def variants(self, portrait: np.ndarray) -> list[tuple[np.ndarray, str]]:
        """Variants by partial noising that the gate takes for the same person, with what they were asked to show."""
        from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

        from trainer.bases.files import Source, load_pipeline

        stock = load_pipeline(StableDiffusionPipeline, Source(self.base_folder), safety_checker=None)
        pipeline = StableDiffusionImg2ImgPipeline(**stock.components, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        jobs = [(words, strength) for words in PROMPTS for strength in STRENGTHS]
        start = torch.from_numpy(portrait).permute(2, 0, 1)[None].float() / 255
        made = []
        for index, (words, strength) in enumerate(self.console.track(jobs, "variants", len(jobs))):
            file = self.file("variants", index)
            if not file.exists():
                image = pipeline(
                    prompt=f"photo of {SUBJECT}, {words}", image=start, strength=strength, num_inference_steps=30,
                    guidance_scale=3.0, generator=torch.Generator().manual_seed(self.seed * 1000 + index),
                    output_type="np",
                ).images[0]  # fmt: skip
                keep(file, (image * 255).round().astype(np.uint8))
            made.append((np.asarray(Image.open(file)), words))
        kept = self.same_person(made, self.gate_vector(portrait))
        self.console.say(f"{len(kept)} of {len(made)} variants are the same person to the gate")
        return kept

    def adapter(self, samples: list[tuple[np.ndarray, str]]) -> Path:
        """Fit an adapter on the variants; returns its file."""
        folder = self.work / "samples"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        lines = []
        for index, (picture, words) in enumerate(samples):
            face = self.detector.detect(picture)[0]
            Image.fromarray(picture).save(folder / f"images/{index:04d}.png")
            line = {"file_name": f"images/{index:04d}.png", "text": f"photo of ohwx {SUBJECT}, {words}"}
            lines.append(line | {"face_box": [float(np.clip(v / 128, 0, 1)) for v in face.box]})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        fitted = self.work / "fit"
        fitted.mkdir(exist_ok=True)
        fit(
            folder,
            get_base("portrait-tiny", self.base_folder, precision=resolve_precision("auto")),
            FIT,
            fitted,
            self.console,
        )
        return find_checkpoints(fitted)[-1].adapter

    def pictures(self, adapter: Path) -> list[tuple[np.ndarray, str]]:
        """Pictures of the person by the adapter, kept by the gate's consensus."""
        self.base.use_adapter(adapter)
        words = [text for text in PROMPTS for _ in range(VARIANTS_PER_PROMPT)]
        prompts = [f"photo of ohwx {SUBJECT}, {text}" for text in words]
        made = self.sample(prompts, [self.seed * 1000 + 500 + i for i in range(len(prompts))], "photos")
        seen = look(made, self.detector, self.gate)
        consensus = seen.vectors[seen.detected > 0].mean(0)
        unit = consensus / np.linalg.norm(consensus)
        kept = self.same_person(list(zip(made, words, strict=True)), unit, CONSENSUS)
        self.console.say(f"{len(kept)} of {len(made)} pictures are the same person to the gate")
        return kept

    def spread(self, pictures: list[tuple[np.ndarray, str]]) -> list[np.ndarray]:
        """`PHOTOS` of them, each mood and pose that the probe reads in turn."""
        kinds: dict[tuple[str | None, str | None], list[np.ndarray]] = {}
        for picture, _ in pictures:
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

    def sample(self, prompts: list[str], seeds: list[int], label: str) -> list[np.ndarray]:
        files = [self.file(label, index) for index in range(len(prompts))]
        missing = [index for index, file in enumerate(files) if not file.exists()]

        def made(index: int, picture: np.ndarray) -> None:
            keep(files[missing[index]], picture)
            tick()

        with self.console.progress(label, len(missing)) as tick:
            self.base.sample([prompts[i] for i in missing], [seeds[i] for i in missing], **SAMPLING, on_picture=made)
        return [np.asarray(Image.open(file)) for file in files]

    def file(self, label: str, index: int) -> Path:
        return self.work / label / f"{index:04d}.png"

    def gate_vector(self, picture: np.ndarray) -> np.ndarray:
        return self.gate.embed(picture, self.detector.detect(picture)[0])

    def same_person(
        self, pictures: list[tuple[np.ndarray, str]], vector: np.ndarray, least: float = SAME_PERSON
    ) -> list[tuple[np.ndarray, str]]:
        seen = look([picture for picture, _ in pictures], self.detector, self.gate)
        return [row for row, cosine in zip(pictures, seen.cosines(vector[None])[:, 0], strict=True) if cosine >= least]


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
