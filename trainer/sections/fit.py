"""The section `fit`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from trainer.sections.section import Fraction, Section

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
