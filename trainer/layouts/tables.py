"""The names of transformers' layers in kohya's layout, to and from diffusers' names.

SD3, FLUX.1 and FLUX.2 keep the original code's names and fused projections, Qwen-Image and Z-Image their module path,
its dots written as underscores, as kohya's musubi-tuner names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TRANSFORMER = "transformer"
FLUX_WIDTH, FLUX_BLOCKS = 3072, 19  # double blocks
SD3_BLOCKS = 38  # of SD3.5 large, 2432 wide; the others have fewer
QWEN_BLOCKS = 60


@dataclass(frozen=True, slots=True)
class Fused:
    """One layer of the original transformer and the layers of diffusers' that are its parts.

    Attributes:
        stem: kohya's name without the prefix, `{}` for the block's number.
        parts: diffusers' names below the component, in the order of the fused rows.
        sizes: rows of each part, as multiples of the first one's.
    """

    stem: str
    parts: tuple[str, ...]
    sizes: tuple[int, ...] = (1,)


Table = tuple[Fused, ...]


def _attention(stem: str, prefix: str, names: str = "to_q to_k to_v") -> Fused:
    return Fused(stem, tuple(f"{prefix}.{name}" for name in names.split()), (1, 1, 1))


def _paths(prefix: str, names: str) -> Table:
    """Rows of the module path itself."""
    return tuple(Fused(f"{prefix}_{name}".replace(".", "_"), (f"{prefix}.{name}",)) for name in names.split())


ADDED = "add_q_proj add_k_proj add_v_proj"
DOUBLE, SINGLE = "transformer_blocks.{}", "single_transformer_blocks.{}"
_DOUBLE_ATTENTION = (
    _attention("double_blocks_{}_img_attn_qkv", f"{DOUBLE}.attn"),
    _attention("double_blocks_{}_txt_attn_qkv", f"{DOUBLE}.attn", ADDED),
    Fused("double_blocks_{}_img_attn_proj", (f"{DOUBLE}.attn.to_out.0",)),
    Fused("double_blocks_{}_txt_attn_proj", (f"{DOUBLE}.attn.to_add_out",)),
)
FLUX: Table = (
    *_DOUBLE_ATTENTION,
    Fused("double_blocks_{}_img_mlp_0", (f"{DOUBLE}.ff.net.0.proj",)),
    Fused("double_blocks_{}_img_mlp_2", (f"{DOUBLE}.ff.net.2",)),
    Fused("double_blocks_{}_txt_mlp_0", (f"{DOUBLE}.ff_context.net.0.proj",)),
    Fused("double_blocks_{}_txt_mlp_2", (f"{DOUBLE}.ff_context.net.2",)),
    Fused("double_blocks_{}_img_mod_lin", (f"{DOUBLE}.norm1.linear",)),
    Fused("double_blocks_{}_txt_mod_lin", (f"{DOUBLE}.norm1_context.linear",)),
    Fused("single_blocks_{}_linear1", tuple(f"{SINGLE}.{name}" for name in (
        "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")), (1, 1, 1, 4)),
    Fused("single_blocks_{}_linear2", (f"{SINGLE}.proj_out",)),
    Fused("single_blocks_{}_modulation_lin", (f"{SINGLE}.norm.linear",)),
)  # fmt: skip
FLUX2: Table = (
    *_DOUBLE_ATTENTION,
    Fused("double_blocks_{}_img_mlp_0", (f"{DOUBLE}.ff.linear_in",)),
    Fused("double_blocks_{}_img_mlp_2", (f"{DOUBLE}.ff.linear_out",)),
    Fused("double_blocks_{}_txt_mlp_0", (f"{DOUBLE}.ff_context.linear_in",)),
    Fused("double_blocks_{}_txt_mlp_2", (f"{DOUBLE}.ff_context.linear_out",)),
    Fused("single_blocks_{}_linear1", (f"{SINGLE}.attn.to_qkv_mlp_proj",)),
    Fused("single_blocks_{}_linear2", (f"{SINGLE}.attn.to_out",)),
)
SD3: Table = (
    _attention("joint_blocks_{}_x_block_attn_qkv", f"{DOUBLE}.attn"),
    _attention("joint_blocks_{}_context_block_attn_qkv", f"{DOUBLE}.attn", ADDED),
    _attention("joint_blocks_{}_x_block_attn2_qkv", f"{DOUBLE}.attn2"),
    Fused("joint_blocks_{}_x_block_attn_proj", (f"{DOUBLE}.attn.to_out.0",)),
    Fused("joint_blocks_{}_context_block_attn_proj", (f"{DOUBLE}.attn.to_add_out",)),
    Fused("joint_blocks_{}_x_block_attn2_proj", (f"{DOUBLE}.attn2.to_out.0",)),
    Fused("joint_blocks_{}_x_block_mlp_fc1", (f"{DOUBLE}.ff.net.0.proj",)),
    Fused("joint_blocks_{}_x_block_mlp_fc2", (f"{DOUBLE}.ff.net.2",)),
    Fused("joint_blocks_{}_context_block_mlp_fc1", (f"{DOUBLE}.ff_context.net.0.proj",)),
    Fused("joint_blocks_{}_context_block_mlp_fc2", (f"{DOUBLE}.ff_context.net.2",)),
    Fused("context_embedder", ("context_embedder",)),
)
QWEN_IMAGE: Table = _paths(
    DOUBLE,
    "attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out "
    "img_mlp.net.0.proj img_mlp.net.2 txt_mlp.net.0.proj txt_mlp.net.2 img_mod.1 txt_mod.1",
)
STREAMS = ("layers.{}", "noise_refiner.{}", "context_refiner.{}")
Z_IMAGE: Table = tuple(
    row
    for stream in STREAMS
    for row in (
        *_paths(
            stream,
            "attention.to_q attention.to_k attention.to_v attention.to_out.0 "
            "feed_forward.w1 feed_forward.w2 feed_forward.w3 adaLN_modulation.0",
        ),
        # The original code's names, which ComfyUI has: read alone, since the rows above come first.
        _attention(f"{stream}_attention_qkv".replace(".", "_"), f"{stream}.attention"),
        Fused(f"{stream}_attention_out".replace(".", "_"), (f"{stream}.attention.to_out.0",)),
    )
)
# By the base's name; a base of another name is known by its modules.
OF_BASE = {"sd3": SD3, "flux1": FLUX, "flux2-klein": FLUX2, "qwen-image": QWEN_IMAGE, "z-image": Z_IMAGE}
# Rows over columns of FLUX.2's layers where FLUX.1 has layers of the same names and other shapes.
FLUX2_SHAPES = {"img_mlp_0": 6, "txt_mlp_0": 6, "img_mlp_2": 1 / 3, "txt_mlp_2": 1 / 3, "linear1": 9, "linear2": 1 / 4}
BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
NUMBER = re.compile(r"_(\d+)_|\.(\d+)\.")


def transformer_table(modules: Iterable[str], width: int) -> Table:
    """The table of a file with these modules of diffusers', by the names that only one transformer has.

    What is left, attention and SD3's feed-forward, is FLUX.1's where it is as wide and has as few blocks, else SD3's,
    else Qwen-Image's. Empty for more blocks than any has: kohya's layout has no names here for another transformer.
    """
    names = list(modules)
    blocks = 1 + max((int(found[1]) for name in names if (found := BLOCK.match(name))), default=0)
    if any(name.startswith(tuple(stream.removesuffix("{}") for stream in STREAMS)) for name in names):
        return Z_IMAGE
    if any(re.search(r"\.(img|txt)_(mlp|mod)\.", name) for name in names):
        return QWEN_IMAGE
    if any(re.search(r"\.linear_(in|out)$|^single.*\.attn\.(to_qkv_mlp_proj|to_out)$", name) for name in names):
        return FLUX2
    if any(name.startswith("single_transformer_blocks.") for name in names):
        return FLUX if blocks <= FLUX_BLOCKS else ()
    if width == FLUX_WIDTH:
        return FLUX if blocks <= FLUX_BLOCKS else QWEN_IMAGE if blocks <= QWEN_BLOCKS else ()
    return SD3 if blocks <= SD3_BLOCKS else ()


def is_flux2(stem: str, rows: int, columns: int) -> bool:
    """Whether a layer of this name in kohya's layout, without the prefix, has FLUX.2's shape and not FLUX.1's."""
    found = re.fullmatch(r"(?:double|single)_blocks_\d+_(\w+)", stem)
    return bool(found) and FLUX2_SHAPES.get(found[1] if found else "") == rows / columns


def fused_of(module: str, table: Table) -> tuple[Fused, str] | None:
    """The row of a diffusers module and its block's number, None for a module that has no name there."""
    found = NUMBER.search(module)
    number = next(filter(None, found.groups()), "") if found else ""
    plain = module.replace(f".{number}.", ".{}.", 1) if number else module
    return next(((row, number) for row in table if plain in row.parts), None)


def fused_named(stem: str, flux2: bool = False) -> tuple[Fused, str] | None:
    """The row of kohya's name without its prefix, and the block's number; None for another name.

    `flux2`: names that FLUX.1 and FLUX.2 share are the latter's.
    """
    found = NUMBER.search(stem)
    number = next(filter(None, found.groups()), "") if found else ""
    plain = stem.replace(f"_{number}_", "_{}_", 1) if number else stem
    tables = (*(FLUX2 if flux2 else FLUX), *SD3, *QWEN_IMAGE, *Z_IMAGE)
    return next(((row, number) for row in tables if row.stem == plain), None)
