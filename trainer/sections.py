"""The sections of a recipe: every choice of a run, frozen, documented, with its default and its range.

Nothing below the stages ever sees these models: they take flat values.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Choice = Literal["reject", "warn", "keep"]
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
    quantize: Literal["none", "int8", "nf4"] = "none"
    """Format of the frozen linear layers while fitting: as `fit.precision` has them; 8 bits (arXiv 2208.07339); 4 bits
    (arXiv 2305.14314). Needs bitsandbytes. The adapter is scored and exported on the base as it is."""


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
    subject_kind: Literal["person", "style", "brand"] = "person"
    """What is learned. A style or brand has no face: none is looked for, and no likeness is told."""
    class_word: Literal["person", "woman", "man", "style", "artwork", "logo", "product"] = "person"
    """What the subject is called beside the trigger, and alone in the leak test; it goes with `subject_kind`."""
    framing: Literal["centre", "whole"] = "centre"
    """Samples of a style or brand: the largest square in the middle of a picture, or all of it on white."""
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
    max_cut: Fraction = 0.25
    """Largest share of the face, hairline to chin, that may lie outside the photo; above: `cut-off`."""
    on_cut: Choice = "reject"
    """What to do with a photo that is `cut-off`."""
    max_occluded: Fraction = 0.55
    """Largest share of the eyes, or of nose and mouth, that has not the skin's colour; above: `occluded`."""
    on_occluded: Choice = "warn"
    """What to do with a photo that is `occluded`: dark glasses, a mask."""
    min_texture: Annotated[float, Field(ge=0.0)] = 0.06
    """Smallest fine detail of cheeks and forehead against that of the eyes; below: `filtered`."""
    max_chroma: Annotated[float, Field(ge=0.0, le=200.0)] = 45.0
    """Largest distance of the face's colour from gray, in CIELAB; above: `filtered`."""
    max_tint_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 25.0
    """Largest distance of the face's hue from that of skin in white light, in degrees of CIELAB; above: `filtered`."""
    min_levels: Fraction = 0.45
    """Smallest share of the face's gray levels that is in use (exponential of their entropy); below: `filtered`."""
    on_filtered: Choice = "warn"
    """What to do with a photo that is `filtered`."""
    min_detection: Fraction = 0.7
    """Detector confidence from which something counts as a face."""
    second_face: Fraction = 0.6
    """Another face at least this wide, as a share of the person's, is kept out of the sample; else `several-faces`."""
    on_look_alikes: Choice = "reject"
    """What to do where several such faces look like the person: `look-alikes`. Kept: the one that does most."""
    framings: Annotated[list[Literal["face", "head-and-shoulders", "half-body"]], Field(min_length=1, max_length=3)] = [
        "face"
    ]
    """Framings of each photo to learn from. `face` is the base's own; wider ones are made where the photo has them.

    About 23, 50 and 87 cm wide.
    """
    max_upscale: Annotated[float, Field(ge=1.0, le=16.0)] | None = None
    """Largest enlargement of a photo in a sample; a framing that needs more is left out. None: any."""
    max_aspect: Annotated[float, Field(ge=1.0, le=4.0)] = 1.0
    """Most times that a sample's one side may be as long as the other. 1: squares. More: buckets of other shapes.

    They have at most as many pixels as the square of `base.size_px` (arXiv 2307.01952, section 2.3). A face's square
    goes on into the photo around it; pictures of a style or brand take the bucket nearest to their own shape.
    """
    same_person: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.3
    """Gate similarity to the consensus below which a photo is always `other-person`.

    The threshold itself lies about 0.33 below what is usual for the person's photos, but not below this.
    """
    burst: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.97
    """Gate similarity from which two photos count as one burst and share a role."""
    keep_burst: Literal["all", "best"] = "all"
    """Of near-duplicates and bursts: all are used, or the best by the measured quality; the others are `burst`."""
    select_share: Fraction = 0.2
    """Share of the photos sealed for choosing the checkpoint; at least 2."""
    report_share: Fraction = 0.2
    """Share of the photos sealed for the reported score; at least 2."""
    min_photos: Annotated[int, Field(ge=3)] = 3
    """Fewer usable photos than this end with exit 3. Under 8 none is sealed, and the verdict is `unmeasurable`."""
    max_pixels: Annotated[int, Field(ge=1_000_000)] = 120_000_000
    """Largest accepted picture, in pixels, checked before decoding: `too-large`."""
    captioner: Literal["attributes", "sidecar", "blip", "florence2", "qwen-vl"] = "attributes"
    """Who describes the samples: measured words; your photo.txt beside photo.jpg; a model in `captioner_path`."""
    captioner_path: str | None = None
    """Folder of the captioner's transformers files, or its hub name (then with `captioner_revision`)."""
    captioner_revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Hub commit of the captioner, 40 hexadecimal digits."""
    identity_words: Literal["refuse", "cut", "warn"] = "refuse"
    """Words in your .txt files that say who it is (hair colour, age, the name): end with exit 3, leave out, or warn.

    A model's answers always go without them.
    """


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
    stop_after: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Checkpoints in a row without a better score on the select photos that end the fit. None: every step is made.

    Each is then sampled while fitting, by a second copy of the base in memory, and not again by the evaluation.
    """
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
    text_encoder_rate: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    """Learning rate of an adapter on the base's CLIP text encoders over `learning_rate`. None: they are frozen.

    Of the denoiser's `rank`, `alpha` and kind. diffusers' scripts: 1 (train_dreambooth_lora.py) or 0.05
    (train_dreambooth_lora_sd3.py, 5e-6 beside 1e-4).
    """
    new_tokens: Annotated[int, Field(ge=0, le=16)] = 0
    """Vectors of its own that the trigger gets in the base's CLIP text encoders (textual inversion, arXiv 2208.01618),
    learned together with the adapter. Each keeps the length of the one that it starts from. 0: none."""
    token_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Learning rate of these vectors over `learning_rate`. cloneofsimo/lora: 5 (5e-4 beside 1e-4)."""
    token_init: Annotated[str, Field(pattern=r"^[a-z][a-z ]{0,59}$")] | None = None
    """Words whose vectors they start from, one token after the other. None: the class word."""
    token_until: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the steps in which the vectors learn; then they stay, and the adapter is tuned around them (arXiv
    2106.05744). diffusers' examples/advanced_diffusion_training: 0.5."""
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
    offload: bool = False
    """Keep the denoiser's blocks in main memory; each comes to the GPU while its forerunner is at work, and once more
    for its backward pass (arXiv 2002.05645). The same result in the least GPU memory; slower where copying all weights
    twice takes longer than the step.
    """
    face_weight: Annotated[float, Field(ge=1.0, le=20.0)] = 2.0
    """Loss weight inside what `mask` says against 1.0 outside."""
    mask: Literal["box", "face", "person"] = "box"
    """Where `face_weight` counts: the face's box; its outline, forehead to chin (MediaPipe's mesh, arXiv 1907.06724);
    everybody in the sample, hair and clothes too (MediaPipe's selfie segmentation)."""
    caption_dropout: Fraction = 0.0
    """Share of samples trained on the empty caption. 0 with a prior: it keeps that caption, and so guidance, alive."""
    wordings: Annotated[int, Field(ge=1, le=64)] = 6
    """Captions cached for each sample: the whole one and shorter ones, drawn with equal chance."""
    word_dropout: Fraction = 0.5
    """Chance of each attribute to be left out of a shorter caption, so that short prompts call the person too."""
    prior_batch: Annotated[int, Field(ge=0, le=256)] = 4
    """Rows added to each step that hold the adapter to the base's own answers where the trigger is absent. 0: none."""
    prior_rows: Annotated[int, Field(ge=1, le=100_000)] = 384
    """Answers of the base to draw those rows from, computed once before the first step; never more than are drawn."""
    prior_pictures: Annotated[int, Field(ge=0, le=10_000)] = 24
    """Pictures of other people of the class, made by the base, that half of the answers are about. 0: none.

    As large a part of them is made as of `prior_rows`.
    """
    identity_weight: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    """Weight of the identity loss, 1 - cosine of dlib's embeddings of the predicted picture and the sample. None: off.

    After PortraitBooth (arXiv 2312.06354). dlib cannot be the judge then; as the gate it flatters what it has taught.
    """
    identity_signal: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the picture in a noised sample, SNR / (1 + SNR), from which that loss is taken: below is a blur
    (arXiv 2404.16022). Each such sample costs a pass through the VAE's decoder and back."""
    noise_levels: Literal["uniform", "logit-normal"] = "uniform"
    """How often each noise level is trained. logit-normal: mostly those in the middle (arXiv 2403.03206, eq. 19)."""
    mirror: bool = True
    """Also train on mirrored samples. Turn off for a face that is told by an asymmetry."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient norm above which gradients are scaled down."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the adapter's start, the batches, the noise and the noise levels."""
    trackers: tuple[Literal["tensorboard", "wandb", "wandb-online"], ...] = ()
    """Who is told loss, rate, seconds a step and memory, every 10 steps. Only `wandb-online` sends anything away.

    `tensorboard` and `wandb` (offline) write into the run's `trackers` folder. Package extra: `trackers`.
    """
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
    strengths: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = (0.8, 0.6)
    """Shares of the last checkpoint's change to the base, tried where the best one shows under 0.7 of what is asked."""
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
    clip: str | None = None
    """Folder or hub name of a CLIP model that scores the prompts (safetensors). None: the attribute probe does."""
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
