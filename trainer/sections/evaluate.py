"""The sections `evaluate` and `export`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.sections.section import Fraction, Section


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
