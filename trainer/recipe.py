"""The recipe: every choice of a run, frozen, documented, and checked once at the door.

Values are layered: the defaults below, then the recipe file, then `--set section.key=value`. `Layered` keeps where
each value came from. Nothing below the stages ever sees these models: they take flat values.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from trainer.errors import RecipeError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Choice = Literal["reject", "warn", "keep"]
PACKAGE_ROOT = Path(__file__).resolve().parent
RECIPE_FOLDERS = (PACKAGE_ROOT.parent / "recipes", PACKAGE_ROOT / "_recipes")
MAX_RECIPE_BYTES = 256 * 1024
MODULE_NAME = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*]{1,200}$")]


def _targets(value: object) -> str | list[str]:
    """A kind of layers or a list of module names. Raises ValueError for anything else."""
    if value in ("attention", "attention+conv"):
        return str(value)
    names = value if isinstance(value, list) else []
    if names and all(isinstance(name, str) and re.fullmatch(MODULE_NAME, name) for name in names):
        return list(names)
    raise ValueError("should be attention, attention+conv or a list of module names such as [to_q, to_v]")


class Section(BaseModel):
    """Shared manners: frozen, closed, and documented by each field's own docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class BaseModelSection(Section):
    """Which diffusion model is tuned."""

    name: Literal["portrait-tiny", "sd15", "sdxl", "sd3", "flux1", "flux2-klein", "z-image", "qwen-image"] = (
        "portrait-tiny"
    )
    """Base family. `portrait-tiny` is shipped; the others are loaded from `path`. `sd3` is 3 and 3.5."""
    path: str | None = None
    """Folder or hub name of diffusers files, or a .safetensors checkpoint (sd15, sdxl). None: the shipped files."""
    config: str | None = None
    """Folder or hub name of diffusers files that describe a .safetensors checkpoint. None: the hub's, by its kind."""
    revision: str | None = None
    """Hub revision (commit) to pin. None: the newest; the lock then records what came."""
    size_px: Annotated[int, Field(ge=64, le=2048)] | None = None
    """Side of the pictures, in pixels. None: what the base was made for. Time and memory grow with its square."""


class FacesSection(Section):
    """Who looks at faces. The gate and the judge must be different models."""

    gate: Literal["dlib", "onnx", "insightface"] = "dlib"
    """Embedder for the checks, the wrong-person rejection and the choice of checkpoint."""
    judge: Literal["dlib", "onnx", "insightface"] = "onnx"
    """Embedder for the reported score, and for nothing else."""
    insightface_pack: str | None = None
    """Folder of an InsightFace pack, or the name of one to bring (buffalo_l). Only for the engine insightface."""
    insightface_terms_accepted: bool = False
    """You have read and accept that InsightFace's packs are for non-commercial research only."""


class PrepareSection(Section):
    """From photos to framed, captioned samples."""

    trigger: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,15}$")] = "ohwx"
    """The word that calls the person in a prompt; lower-case letters and digits, 2 to 16 of them."""
    class_word: Literal["person", "woman", "man"] = "person"
    """What the person is called beside the trigger, and alone in the leak test."""
    min_face_px: Annotated[int, Field(ge=16, le=1024)] = 48
    """Smallest face width in pixels; below: `face-too-small`."""
    on_small: Choice = "reject"
    """What to do with a photo that is `face-too-small`: reject, warn or keep."""
    min_sharpness: Annotated[float, Field(ge=0.0)] = 12.0
    """Smallest variance of the Laplacian on the aligned 112 px gray face; below: `blurred`."""
    on_blurred: Choice = "reject"
    """What to do with a photo that is `blurred`."""
    max_shadow: Fraction = 0.4
    """Largest share of the face that is black (gray level 12 or less); above: `too-dark`."""
    on_dark: Choice = "warn"
    """What to do with a photo that is `too-dark`."""
    max_highlight: Fraction = 0.4
    """Largest share of the face that is burnt out (gray level 250 or more); above: `too-bright`."""
    on_bright: Choice = "warn"
    """What to do with a photo that is `too-bright`."""
    max_turn_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 60.0
    """Largest turn of the head, left, right, up or down, in rough degrees; above: `turned-away`."""
    on_turned: Choice = "warn"
    """What to do with a photo that is `turned-away`."""
    min_jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 30
    """Smallest JPEG quality, 1 to 100, by the file's quantization table; below: `compressed`."""
    on_compressed: Choice = "warn"
    """What to do with a photo that is `compressed`."""
    min_detection: Fraction = 0.7
    """Detector confidence from which something counts as a face."""
    second_face: Fraction = 0.6
    """A second face at least this wide, as a share of the largest, makes the photo a group: `several-faces`."""
    same_person: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.3
    """Gate similarity to the consensus below which a photo is always `other-person`.

    The threshold lies in the album's widest gap, from here to 0.25 above.
    """
    burst: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.97
    """Gate similarity from which two photos count as one burst and share a role."""
    select_share: Fraction = 0.2
    """Share of the photos sealed for choosing the checkpoint; at least 2."""
    report_share: Fraction = 0.2
    """Share of the photos sealed for the reported score; at least 2."""
    min_photos: Annotated[int, Field(ge=8)] = 8
    """Fewer usable photos than this end with exit 3: too few to seal any."""
    max_pixels: Annotated[int, Field(ge=1_000_000)] = 120_000_000
    """Largest accepted picture, in pixels, checked before decoding: `too-large`."""


class FitSection(Section):
    """The LoRA fine-tune."""

    steps: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Optimizer steps. More fits closer and copies more."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    """Samples worked through at once."""
    accumulation: Annotated[int, Field(ge=1, le=256)] = 1
    """Parts of `batch_size` samples whose gradients are added up for one step: a larger batch in the same memory."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Steps between checkpoints; each is a candidate for the export."""
    adapter: Literal["lora", "rslora", "dora"] = "lora"
    """Kind: LoRA; rsLoRA, scaled by alpha / sqrt(rank) (arXiv 2312.03732); DoRA, with lengths (arXiv 2402.09353)."""
    rank: Annotated[int, Field(ge=1, le=512)] = 64
    """LoRA rank: capacity and file size grow with it."""
    rank_pattern: dict[ModuleName, Annotated[int, Field(ge=1, le=512)]] | None = None
    """Other ranks for layers whose names end so, such as `{attn2.to_k: 8}`; `*` stands for anything. First match."""
    alpha: Annotated[float, Field(gt=0.0)] = 64.0
    """LoRA scale numerator: the update is multiplied by alpha / rank (arXiv 2106.09685, section 4.1)."""
    targets: Annotated[str | list[str], PlainValidator(_targets)] = "attention+conv"
    """Layers of the denoiser that get an adapter: `attention`, `attention+conv`, or a list of module name endings."""
    init: Literal["gaussian", "pissa", "olora"] = "gaussian"
    """Start: zero; the largest singular parts (arXiv 2404.02948) or QR factors (arXiv 2406.01775) of linear layers."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Chance of each input of the adapter to be dropped in a step (arXiv 2106.09685, appendix D)."""
    warm_start: str | None = None
    """Adapter file to start from (diffusers', PEFT's or kohya's names), of at most this rank. None: from nothing."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "lion", "adafactor"] = "adamw"
    """AdamW; 8-bit AdamW (arXiv 2110.02861), Prodigy (2306.06101), Lion (2302.06675) or Adafactor (1804.04235)."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.5e-3
    """Peak learning rate. Prodigy finds its own: 1. Lion wants a third to a tenth of AdamW's (arXiv 2302.06675)."""
    lora_plus_ratio: Annotated[float, Field(ge=1.0, le=100.0)] | None = None
    """LoRA+: learning rate of B over that of A; the paper finds 16 good (arXiv 2402.12354). None: the same."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up: to 10% of the peak along a cosine or a line, or constant."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Steps of linear warm-up; `schedule` follows."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled weight decay of the adapter's weights, times the learning rate (arXiv 1711.05101)."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Checkpoints hold a moving average of the weights with this decay a step (arXiv 2006.11239). None: the last."""
    weighting: Literal["uniform", "min_snr", "debiased"] = "uniform"
    """Loss weight by noise level: the same; min-SNR (arXiv 2303.09556); 1 / sqrt(SNR) (arXiv 2310.08442)."""
    min_snr_gamma: Annotated[float, Field(gt=0.0)] | None = None
    """Largest SNR that counts, for the weighting min_snr only (arXiv 2303.09556, eq. 7; 5 in the paper)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: the same result in less memory, about a third slower."""
    face_weight: Annotated[float, Field(ge=1.0, le=20.0)] = 2.0
    """Loss weight inside the face box against 1.0 outside."""
    caption_dropout: Fraction = 0.0
    """Share of samples trained on the empty caption. 0 with a prior: it keeps that caption, and so guidance, alive."""
    wordings: Annotated[int, Field(ge=1, le=64)] = 6
    """Captions cached for each sample: the whole one and shorter ones, drawn with equal chance."""
    word_dropout: Fraction = 0.5
    """Chance of each attribute to be left out of a shorter caption, so that short prompts call the person too."""
    prior_batch: Annotated[int, Field(ge=0, le=256)] = 4
    """Rows added to each step that hold the adapter to the base's own answers where the trigger is absent. 0: none."""
    prior_rows: Annotated[int, Field(ge=1, le=100_000)] = 384
    """Answers of the base to draw those rows from, computed once before the first step."""
    prior_pictures: Annotated[int, Field(ge=0, le=10_000)] = 24
    """Pictures of other people of the class, made by the base, that half of the answers are about. 0: none."""
    noise_levels: Literal["uniform", "logit-normal"] = "uniform"
    """How often each noise level is trained. logit-normal: mostly those in the middle (arXiv 2403.03206, eq. 19)."""
    mirror: bool = True
    """Also train on mirrored samples. Turn off for a face that is told by an asymmetry."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient norm above which gradients are scaled down."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the adapter's start, the batches, the noise and the noise levels."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the frozen base. auto: bf16 where the hardware computes it natively, else fp32."""


class EvaluateSection(Section):
    """The score."""

    seeds: Annotated[int, Field(ge=1, le=64)] = 2
    """Pictures per prompt, each from its own fixed seed."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The first of those seeds; the others follow it. One more, after the last, is for choosing the checkpoint."""
    choose: Literal["best", "last"] = "best"
    """Which checkpoint to export: the best on the select photos, or the last whatever it is."""
    select_prompts: Annotated[int, Field(ge=1, le=40)] = 6
    """Prompts per checkpoint when choosing; the report uses all of them."""
    sampling_steps: Annotated[int, Field(ge=1, le=200)] = 16
    """Steps a picture, of the scheduler that the base comes with (portrait-tiny: DPM-Solver++)."""
    guidance: Annotated[float, Field(ge=1.0, le=30.0)] = 4.0
    """Classifier-free guidance scale."""
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    """Pictures sampled at once."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the sampling. fp32 scores the very pictures that the adapter makes in a plain pipeline."""
    false_accept_rate: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.001
    """False-accept rate at which the pass threshold is fitted on the strangers."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Bootstrap rounds of the 95% interval."""
    copying_limit: Fraction = 0.1
    """Copying excess above which the report warns, and a checkpoint is vetoed when another is not."""
    gate: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.0
    """`of_ceiling` below which the run ends with exit 5 (the adapter is still written)."""


class ExportSection(Section):
    """The adapter file."""

    dtype: Literal["fp16", "bf16", "fp32"] = "fp32"
    """Number format of the exported weights. fp32 keeps the reloaded picture equal to the in-run one."""
    kohya: bool = True
    """Also write the kohya / ComfyUI key layout."""
    licence: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,40}$")] = "other"
    """Licence that file and model card name, as the hub spells it (cc-by-nc-4.0). other: as agreed with the person."""


class Recipe(Section):
    """A whole recipe. `Recipe()` is the shipped default, portrait-tiny on any machine."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$")] = "portrait-tiny"
    """Short name; part of the run folder's name."""
    base: BaseModelSection = BaseModelSection()
    """Which diffusion model is tuned."""
    faces: FacesSection = FacesSection()
    """Which face models look."""
    prepare: PrepareSection = PrepareSection()
    """Photos to samples."""
    fit: FitSection = FitSection()
    """The fine-tune."""
    evaluate: EvaluateSection = EvaluateSection()
    """The score."""
    export: ExportSection = ExportSection()
    """The adapter file."""

    def sha256(self) -> str:
        """Hash of every value, defaults included, in canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Layered:
    """A checked recipe and where each of its values came from (`default`, `recipe` or `flag`)."""

    recipe: Recipe
    sources: dict[str, str]
    file: Path | None


def recipe_files() -> dict[str, Path]:
    """Shipped recipes by name."""
    for folder in RECIPE_FOLDERS:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}
    return {}


def find_recipe(name_or_path: str) -> Path:
    """The file of a shipped recipe name or of a path. Raises RecipeError, listing the valid names."""
    shipped = recipe_files()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    raise RecipeError([f"no recipe called {name_or_path!r}"], f"use a .yaml path or one of: {', '.join(shipped)}")


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Layered:
    """Read a recipe file, apply `section.key=value` overrides and check the whole.

    Raises:
        RecipeError: with every problem at once, each naming the file and line or the flag.
    """
    path = find_recipe(name_or_path)
    values, lines = _read_yaml(path)
    sources = {_field_of(key): "recipe" for key, _ in leaves(values)}
    problems: list[str] = []
    for text in overrides:
        key, separator, raw = text.partition("=")
        if not separator or not key.strip():
            problems.append(f"--set {text}: expected section.key=value")
            continue
        try:
            problem = _assign(values, key.strip(), yaml.safe_load(raw) if raw.strip() else "")
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-99-99
            problem = f"not readable as a YAML value: {' '.join(str(error).split())}"
        if problem:
            problems.append(f"--set {text}: {problem}")
        sources[key.strip()] = "flag"
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(problems + [_problem(e, path, lines, sources) for e in error.errors()]) from None
    problems += _cross_checks(recipe, path)
    if problems:
        raise RecipeError(problems)
    return Layered(recipe, sources, path)


def described(section: type[Section] = Recipe, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the recipe with its documentation, in order."""
    for key, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from described(kind, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", " ".join((field.description or "").split())


def flat_values(recipe: Recipe) -> dict[str, Any]:
    """Every field of the recipe as `section.key: value`."""
    values = recipe.model_dump(mode="json")
    return {key: reduce(lambda inner, part: inner[part], key.split("."), values) for key, _ in described()}


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`a.b.c` and its value for everything in nested mappings."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _field_of(key: str) -> str:
    """The field that a key of nested mappings belongs to: a mapping may be a field's value."""
    return next((field for field, _ in described() if key.startswith(f"{field}.")), key)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's mapping and the line of each key. Raises RecipeError for anything that is not one mapping."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError([f"{path}: larger than {MAX_RECIPE_BYTES} bytes; this is no recipe"])
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: bad UTF-8, impossible dates
        raise RecipeError([f"{path}: not readable as YAML: {error}"]) from None
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise RecipeError([f"{path}: a recipe is a mapping of sections; this is {type(values).__name__}"])
    return values, dict(_key_lines(node, ""))


def _key_lines(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _key_lines(value, f"{name}.")


def _assign(values: dict[str, Any], dotted: str, value: Any) -> str | None:
    """Set `a.b` in nested mappings; the problem in words where that is impossible."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            return f"{parent} is a value, not a section"
        values = inner
    values[last] = value
    return None


def _problem(error: Any, path: Path, lines: dict[str, int], sources: dict[str, str]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    flagged = sources.get(key) == "flag" or (key not in lines and any(name.startswith(f"{key}.") for name in sources))
    where = f"--set {key}" if flagged else f"{path}:{lines.get(key, 1)}: {key}"
    reason = "unknown key" if error["type"] == "extra_forbidden" else error["msg"]
    return f"{where}: {reason}"


def _cross_checks(recipe: Recipe, path: Path) -> list[str]:
    """Rules between fields."""
    problems = []
    if recipe.faces.gate == recipe.faces.judge:
        problems.append(
            f"{path}: faces.judge: must differ from faces.gate ({recipe.faces.gate}), or the score is no proof"
        )
    if recipe.prepare.select_share + recipe.prepare.report_share > 0.6:
        problems.append(
            f"{path}: prepare.select_share + prepare.report_share: at most 0.6, something must be left to fit"
        )
    problems += [f"{path}: {problem}" for problem in _fit_checks(recipe)]
    if recipe.base.name != "portrait-tiny" and not recipe.base.path:
        problems.append(f"{path}: base.path: needed for {recipe.base.name} (a folder or hub name)")
    return problems


def _fit_checks(recipe: Recipe) -> Iterator[str]:
    """Rules between the fields of fit, and of fit and export."""
    f = recipe.fit
    if f.checkpoint_every > f.steps:
        yield "fit.checkpoint_every: more than fit.steps, no checkpoint would be written"
    if (f.weighting == "min_snr") != (f.min_snr_gamma is not None):
        yield "fit.min_snr_gamma: goes with fit.weighting min_snr, and only with it (5 in the paper)"
    if f.optimizer == "prodigy" and f.learning_rate < 0.1:
        yield "fit.learning_rate: Prodigy multiplies the rate that it finds by it; set it to 1"
    if f.optimizer == "prodigy" and f.lora_plus_ratio is not None:
        yield "fit.lora_plus_ratio: Prodigy has one rate for all; choose another optimizer"
    if f.warm_start is not None and not Path(f.warm_start).is_file():
        yield f"fit.warm_start: {f.warm_start}: no such file"
    if f.init != "gaussian":
        yield from _start_checks(f)
    if recipe.export.kohya:
        if f.rank_pattern:
            yield "export.kohya: diffusers misreads that layout where ranks differ (fit.rank_pattern); set it to false"
        if f.adapter == "dora":
            yield "export.kohya: diffusers drops the lengths of a DoRA in that layout; set it to false"


def _start_checks(f: FitSection) -> Iterator[str]:
    """What a start from the frozen weights cannot go with."""
    if f.adapter == "dora":
        yield f"fit.init: {f.init} cannot be undone in a DoRA's file; set fit.adapter to lora or rslora"
    if f.targets == "attention+conv":
        yield f"fit.init: {f.init} is for linear layers; set fit.targets to attention or to a list of such"
    if f.warm_start is not None:
        yield "fit.warm_start: a start of its own; set fit.init to gaussian"
