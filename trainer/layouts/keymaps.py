"""The names of layers in kohya's layout, to and from diffusers' names.

UNets and CLIP text encoders keep their module path, its dots written as underscores. SDXL files of kohya's own trainer
name the UNet's blocks as the original code did; these are read, not written, since kohya's loader takes both. The
transformers of SD3 and FLUX.1 keep the original code's names and fused projections (`FUSED`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TEXT = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}  # alone, the first one is lora_te_
UNET, TRANSFORMER = "unet", "transformer"
FLUX_WIDTH, FLUX_BLOCKS = 3072, 19  # double blocks
SD3_BLOCKS = 38  # of SD3.5 large, 2432 wide; the others have fewer

# Module names of UNets and CLIP that hold an underscore themselves.
WORDS = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in",
    "proj_out", "conv_in", "conv_out", "conv_shortcut", "time_emb_proj", "time_embedding", "add_embedding", "linear_1",
    "linear_2", "text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "text_projection",
)  # fmt: skip
SPELLED = re.compile("(?:" + "|".join(sorted(WORDS, key=len, reverse=True)) + "|[A-Za-z0-9]+)(?=_|$)")

# Inside the original code's residual blocks, and its layers outside the blocks.
ORIGINAL_RESNET = {
    "in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}  # fmt: skip
ORIGINAL_OUTSIDE = {
    "input_blocks_0_0": "conv_in", "out_2": "conv_out", "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2", "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip
# diffusers' reader takes these by their original names alone.
WRITTEN_ORIGINAL = {"add_embedding.linear_1": "label_emb_0_0", "add_embedding.linear_2": "label_emb_0_2"}
ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)_(?:(\d+)_)?(.+)")


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


def _attention(stem: str, prefix: str, names: str = "to_q to_k to_v") -> Fused:
    return Fused(stem, tuple(f"{prefix}.{name}" for name in names.split()), (1, 1, 1))


ADDED = "add_q_proj add_k_proj add_v_proj"
DOUBLE, SINGLE = "transformer_blocks.{}", "single_transformer_blocks.{}"
FLUX = (
    _attention("double_blocks_{}_img_attn_qkv", f"{DOUBLE}.attn"),
    _attention("double_blocks_{}_txt_attn_qkv", f"{DOUBLE}.attn", ADDED),
    Fused("double_blocks_{}_img_attn_proj", (f"{DOUBLE}.attn.to_out.0",)),
    Fused("double_blocks_{}_txt_attn_proj", (f"{DOUBLE}.attn.to_add_out",)),
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
SD3 = (
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
BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
NUMBER = re.compile(r"_(\d+)_|\.(\d+)\.")


def transformer_table(modules: Iterable[str], width: int) -> tuple[Fused, ...]:
    """FLUX.1's names for a file with single blocks, or of FLUX.1's width where it has only double ones; else SD3's.

    Empty for more blocks than either has: that is another transformer, which kohya's layout has no names for here.
    """
    names = list(modules)
    blocks = 1 + max((int(found[1]) for name in names if (found := BLOCK.match(name))), default=0)
    if any(name.startswith("single_transformer_blocks.") for name in names) or width == FLUX_WIDTH:
        return FLUX if blocks <= FLUX_BLOCKS else ()
    return SD3 if blocks <= SD3_BLOCKS else ()


def fused_of(module: str, table: tuple[Fused, ...]) -> tuple[Fused, str] | None:
    """The row of a diffusers module and its block's number, None for a module that has no name there."""
    found = NUMBER.search(module)
    number = next(filter(None, found.groups()), "") if found else ""
    plain = module.replace(f".{number}.", ".{}.", 1) if number else module
    return next(((row, number) for row in table if plain in row.parts), None)


def fused_named(stem: str) -> tuple[Fused, str] | None:
    """The row of kohya's name without its prefix, and the block's number; None for another name."""
    found = NUMBER.search(stem)
    number = next(filter(None, found.groups()), "") if found else ""
    plain = stem.replace(f"_{number}_", "_{}_", 1) if number else stem
    return next(((row, number) for row in (*FLUX, *SD3) if row.stem == plain), None)


def stem_of(module: str, numbered: bool) -> str | None:
    """kohya's name of a UNet's or text encoder's module, as `unet.conv_in`; None where it could not be read back.

    `numbered`: the first text encoder is called te1, not te.
    """
    component, _, name = module.partition(".")
    prefix = TEXT.get(component, "lora_unet_")
    if component == "text_encoder" and not numbered:
        prefix = "lora_te_"
    stem = prefix + WRITTEN_ORIGINAL.get(name, name.replace(".", "_"))
    return stem if component in {UNET, *TEXT} and module_of(stem) == module else None


def module_of(stem: str) -> str:
    """diffusers' name of a UNet's or text encoder's layer, whose kohya name begins with one of its prefixes."""
    for prefix, component in (
        ("lora_unet_", UNET),
        ("lora_te_", "text_encoder"),
        *((prefix, component) for component, prefix in TEXT.items()),
    ):
        if stem.startswith(prefix):
            name = stem.removeprefix(prefix)
            return f"{component}.{_spelled(_from_original(name) if component == UNET else name)}"
    raise ValueError(stem)


def _spelled(name: str) -> str:
    """`down_blocks_0_resnets_1_conv1` to `down_blocks.0.resnets.1.conv1`."""
    return ".".join(SPELLED.findall(name))


def _from_original(name: str) -> str:
    """The original UNet's path to diffusers', both with underscores; SD 1 and SDXL have two residual blocks a level."""
    if name in ORIGINAL_OUTSIDE:
        return ORIGINAL_OUTSIDE[name]
    found = ORIGINAL.fullmatch(name)
    if not found:
        return name
    kind, number, inner, rest = found[1], int(found[2]), int(found[3] or 0), found[4]
    rest = ORIGINAL_RESNET.get(rest, rest)
    if kind == "middle_block":  # one number fewer: middle_block_1_transformer_blocks_0
        rest = rest if found[3] is None else f"{found[3]}_{rest}"
        return f"mid_block_{('resnets_0', 'attentions_0', 'resnets_1')[number % 3]}_{rest}"
    level, layer = divmod(number - 1 if kind == "input_blocks" else number, 3)
    if kind == "input_blocks":
        if layer == 2:
            return f"down_blocks_{level}_downsamplers_0_conv"
        return f"down_blocks_{level}_{('resnets', 'attentions')[inner % 2]}_{layer}_{rest}"
    if rest == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    return f"up_blocks_{level}_{('resnets', 'attentions')[inner % 2]}_{layer}_{rest}"
