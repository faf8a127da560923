"""The names of the layers of UNets and text encoders in kohya's layout, to and from diffusers' names.

UNets and CLIP text encoders keep their module path, its dots written as underscores. SDXL files of kohya's own trainer
name the UNet's blocks as the original code did; these are read, not written, since kohya's loader takes both. The
transformers' names are in `tables`.
"""

from __future__ import annotations

import re

TEXT = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}  # alone, the first one is lora_te_
UNET = "unet"

# Module names of UNets and CLIP that hold an underscore themselves.
WORDS = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in",
    "proj_out", "conv_in", "conv_out", "conv_shortcut", "time_emb_proj", "time_embedding", "add_embedding", "linear_1",
    "linear_2", "text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "text_projection",
)  # fmt: skip
SPELLED = re.compile("(?:" + "|".join(sorted(WORDS, key=len, reverse=True)) + "|[A-Za-z0-9]+)(?=_|$)")
ROOTS = ("down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "time_embedding.", "add_embedding.")

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


def module_of(stem: str) -> str | None:
    """diffusers' name of a UNet's or text encoder's layer, whose kohya name begins with one of its prefixes.

    None for a layer of another denoiser than a UNet.
    """
    for prefix, component in (
        ("lora_unet_", UNET),
        ("lora_te_", "text_encoder"),
        *((prefix, component) for component, prefix in TEXT.items()),
    ):
        if stem.startswith(prefix):
            name = stem.removeprefix(prefix)
            spelled = _spelled(_from_original(name) if component == UNET else name)
            return f"{component}.{spelled}" if component != UNET or spelled.startswith(ROOTS) else None
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
