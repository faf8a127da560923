"""Writes a tiny folder as its makers would: one file, with the names of the original latent diffusion code."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight", "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_single_file(folder: Path, file: Path) -> None:
    """The weights of the UNet, VAE and text encoders of an `sd15` or `sdxl` folder in one checkpoint."""
    unet = _weights(folder / "unet")
    attended = any(name.startswith("up_blocks.0.attentions") for name in unet)
    tensors = {f"model.diffusion_model.{_unet(name, attended)}": tensor for name, tensor in unet.items()}
    tensors |= {f"first_stage_model.{_vae(name)}": _conv(name, t) for name, t in _weights(folder / "vae").items()}
    two = (folder / "text_encoder_2").is_dir()
    clip = "conditioner.embedders.0.transformer" if two else "cond_stage_model.transformer"
    words = _weights(folder / "text_encoder").items()
    tensors |= {f"{clip}.text_model.{n.removeprefix('text_model.')}": t for n, t in words}
    if two:
        second = _open_clip(_weights(folder / "text_encoder_2"))
        tensors |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in second.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def _open_clip(tensors: Tensors) -> Tensors:
    """Queries, keys and values are one matrix there, and the projection is transposed."""
    renamed: Tensors = {"text_projection": tensors["text_projection.weight"].T}
    for name, tensor in tensors.items():
        if name == "text_projection.weight" or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = torch.cat([tensors[name.replace(".q_proj.", f".{kind}_proj.")] for kind in "qkv"])
            name = name.replace(".q_proj.", ".in_proj_")
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def _weights(folder: Path) -> Tensors:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def _unet(name: str, attended: bool) -> str:
    """Numbers count every layer of one in, two out, and the samplers between the two blocks."""
    for ours, theirs in TOP.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs)
    if found := re.match(
        r"(down|up|mid)_blocks?\.(?:(\d)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name
    ):
        side, block, kind, layer, rest = found.groups()
        if kind == "resnets":
            head, _, tail = rest.rpartition(".")
            rest = f"{RESNET[head]}.{tail}"
        if side == "mid":
            return f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}.{rest}"
        if kind == "downsamplers":
            return f"input_blocks.{2 * int(block) + 2}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{2 * int(block) + 1}.{1 + attended}.{rest}"
        place = 2 * int(block) + int(layer) + (side == "down")
        return f"{'input' if side == 'down' else 'output'}_blocks.{place}.{int(kind == 'attentions')}.{rest}"
    raise ValueError(name)


def _vae(name: str) -> str:
    """Decoder blocks count the other way round."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        head, _, tail = name.partition("mid_block.attentions.0.")
        layer, _, kind = tail.rpartition(".")
        return f"{head}mid.attn_1.{ATTENTION[layer]}.{kind}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


def _conv(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Their VAE's attention is made of 1 x 1 convolutions."""
    return tensor[:, :, None, None] if "attentions" in name and tensor.ndim == 2 else tensor
