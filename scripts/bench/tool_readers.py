"""Whether ComfyUI and kohya's musubi-tuner take our files whole: their own code, models of their full size.

    git clone https://github.com/comfyanonymous/ComfyUI
    git clone https://github.com/kohya-ss/musubi-tuner
    pip install einops torchsde psutil voluptuous toml    # besides what this project needs
    python scripts/bench/tool_readers.py --comfyui ComfyUI --musubi musubi-tuner

For each family a random adapter of every layer of `attention+conv` (and of the CLIP text encoders) is written in both
layouts. ComfyUI maps the keys to its model's weights; musubi-tuner builds its network from the file and loads it. The
models have no weights (PyTorch's meta device). `left` counts the keys that nobody took, `misfits` the layers whose
update has another shape than the weight that it is for. It ends with exit 1 where a file that the docs promise to a
tool (`PROMISED`) is not taken whole.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import diffusers
import kohya_loader
import torch

from trainer.bases import flux2, qwen_image, z_image
from trainer.layouts.layer import Tensors
from trainer.layouts.layers import read_layers, to_kohya

KLEIN = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
    "guidance_embeds": False,
}  # fmt: skip
NEW = {
    "flux2-klein": (lambda: {"transformer": diffusers.Flux2Transformer2DModel(**KLEIN)}, flux2.TARGETS),
    "qwen-image": (lambda: {"transformer": diffusers.QwenImageTransformer2DModel()}, qwen_image.TARGETS),
    "z-image": (lambda: {"transformer": diffusers.ZImageTransformer2DModel()}, z_image.TARGETS),
}
# What ComfyUI finds out of a checkpoint: its class of model, the denoiser's module and class, its options.
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = FLUX | {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 7680, "mlp_ratio": 3.0, "depth": 5,
    "depth_single_blocks": 20, "axes_dim": [32] * 4, "theta": 2000, "patch_size": 1, "qkv_bias": False,
    "guidance_embed": False, "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
}  # fmt: skip
SD3 = {
    "input_size": None, "in_channels": 16, "out_channels": 16, "depth": 24, "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
    "num_patches": 384**2, "pos_embed_max_size": 384, "qk_norm": "rms", "x_block_self_attn_layers": list(range(13)),
}  # fmt: skip
Z_IMAGE = {
    "patch_size": 2, "in_channels": 16, "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "n_refiner_layers": 2,
    "qk_norm": True, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
    "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "time_scale": 1000.0,
}  # fmt: skip
COMFY: dict[str, tuple[str, str, str, dict[str, Any] | None]] = {
    "sd15": ("BaseModel", "modules.diffusionmodules.openaimodel", "UNetModel", None),
    "sdxl": ("SDXL", "modules.diffusionmodules.openaimodel", "UNetModel", None),
    "sd35-medium": ("SD3", "modules.diffusionmodules.mmdit", "OpenAISignatureMMDITWrapper", SD3),
    "flux1-dev": ("Flux", "flux.model", "Flux", FLUX),
    "flux2-klein": ("Flux2", "flux.model", "Flux", FLUX2),
    "qwen-image": ("QwenImage", "qwen_image.model", "QwenImageTransformer2DModel", {}),
    "z-image": ("Lumina2", "lumina.model", "NextDiT", Z_IMAGE),
}
# ComfyUI knows attention layers of UNets by older names of diffusers', and Z-Image by its own or diffusers'.
HALF_READ = [("comfyui", "sd15", "diffusers"), ("comfyui", "sdxl", "diffusers"), ("comfyui", "z-image", "kohya")]
PROMISED = {
    ("comfyui", family, layout): True for family in COMFY for layout in ("diffusers", "kohya")
} | dict.fromkeys(HALF_READ, False) | {("musubi-tuner", family, "kohya"): True for family in NEW}  # fmt: skip
CLIP_L = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
CLIP_G = {"num_hidden_layers": 32, "hidden_size": 1280, "num_attention_heads": 20, "intermediate_size": 5120}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--musubi", type=Path)
    parser.add_argument("--only", nargs="*", choices=COMFY, default=list(COMFY))
    args = parser.parse_args()
    stand_in("torchvision", "torchvision.transforms", "torchaudio")
    broken = False
    print("| tool | family | layout | keys | left | misfits |\n|---|---|---|---|---|---|")
    for family in args.only:
        parts, ours = adapter(family)
        files = {"diffusers": ours, "kohya": to_kohya(read_layers(Path(family), ours, {}))}
        for tool, check, where in (("comfyui", comfyui, args.comfyui), ("musubi-tuner", musubi, args.musubi)):
            if where is None or (tool == "musubi-tuner" and family not in NEW):
                continue
            for layout, tensors in files.items():
                promised = PROMISED.get((tool, family, layout))
                if promised is not None:
                    left, misfits = check(where.resolve(), family, parts, tensors)
                    print(f"| {tool} | {family} | {layout} | {len(tensors)} | {left} | {misfits} |")
                    broken |= promised and bool(left or misfits)
    sys.exit(broken)


def stand_in(*names: str) -> None:
    """Modules that the tools import by name and do not need to read an adapter."""
    lacking = [name for name in names if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in lacking:
        if name not in sys.modules:
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)


def adapter(family: str) -> tuple[dict[str, torch.nn.Module], Tensors]:
    """diffusers' parts of the family and a random adapter of their layers."""
    if family in NEW:
        build, named = NEW[family]
        targets = named["attention+conv"]
    else:
        build, targets = kohya_loader.FAMILIES[family].parts, kohya_loader.FAMILIES[family].targets
    with torch.device("meta"):
        parts = build()
    return parts, kohya_loader.adapter_of(parts, targets)


def comfyui(folder: Path, family: str, parts: dict[str, torch.nn.Module], tensors: Tensors) -> tuple[int, int]:
    """Keys left over and layers of a wrong shape, by ComfyUI's own key map and loader."""
    sys.path.insert(0, str(folder))
    importlib.import_module("comfy.cli_args").args.cpu = True
    lora = importlib.import_module("comfy.lora")
    model, encoders = comfys_model(family, parts), comfys_encoders(parts)
    keys: dict[str, Any] = lora.model_lora_keys_unet(model, {})
    if encoders is not None:
        keys = lora.model_lora_keys_clip(encoders, keys)
    left: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: left.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    taken = lora.load_lora(importlib.import_module("comfy.lora_convert").convert_lora(dict(tensors)), keys)
    logging.getLogger().removeHandler(handler)
    weights = model.state_dict() | (encoders.state_dict() if encoders is not None else {})
    misfits = sum(shape_of(weights, target) != update_shape(patch) for target, patch in taken.items())
    return sum("key not loaded" in words for words in left), misfits


def comfys_model(family: str, parts: dict[str, torch.nn.Module]) -> Any:
    """ComfyUI's model as its key map looks at it: the class, the denoiser's weights, the options."""
    base, module, name, options = COMFY[family]
    if options is None:
        detection = importlib.import_module("comfy.model_detection")
        options = detection.unet_config_from_diffusers_unet(parts["unet"].state_dict())
    kind = getattr(importlib.import_module("comfy.model_base"), base)
    operations = importlib.import_module("comfy.ops").disable_weight_init
    model = kind.__new__(kind)
    torch.nn.Module.__init__(model)
    build: Callable[..., torch.nn.Module] = getattr(importlib.import_module(f"comfy.ldm.{module}"), name)
    model.diffusion_model = build(**options, device="meta", operations=operations)
    model.model_config = SimpleNamespace(unet_config=options)
    return model


def comfys_encoders(parts: dict[str, torch.nn.Module]) -> torch.nn.Module | None:
    """ComfyUI's CLIP encoders of the family, None for a family without any."""
    names = [name for name in parts if name.startswith("text_encoder")]
    if not names:
        return None
    build = importlib.import_module("comfy.clip_model").CLIPTextModel
    operations = importlib.import_module("comfy.ops").disable_weight_init
    both = torch.nn.Module()
    for name, config in zip(("clip_l", "clip_g")[: len(names)], (CLIP_L, CLIP_G), strict=False):
        options = config | {"hidden_act": "gelu", "max_position_embeddings": 77, "eos_token_id": 49407}
        setattr(both, name, torch.nn.Module())
        getattr(both, name).transformer = build(options, torch.float32, "meta", operations)
    return both


def shape_of(weights: dict[str, torch.Tensor], target: Any) -> tuple[int, ...]:
    """Of the weight, or of those of its rows that a diffusers layer stands for."""
    if isinstance(target, str):
        return tuple(weights[target].flatten(1).shape)
    name, (side, start, length) = target[:2]
    return tuple(weights[name].narrow(side, start, length).flatten(1).shape)


def update_shape(patch: Any) -> tuple[int, int]:
    up, down = patch.weights[:2]
    return int(up.shape[0]), int(down.flatten(1).shape[1])


def musubi(folder: Path, family: str, parts: dict[str, torch.nn.Module], tensors: Tensors) -> tuple[int, int]:
    """Keys that musubi-tuner's network misses or has no place for, and layers of another shape than the model's."""
    sys.path.insert(0, str(folder / "src"))
    network, module, name = {
        "flux2-klein": ("lora_flux_2", "flux_2.flux2_models", "Flux2"),
        "qwen-image": ("lora_qwen_image", "qwen_image.qwen_image_model", "QwenImageTransformer2DModel"),
        "z-image": ("lora_zimage", "zimage.zimage_model", "ZImageTransformer2DModel"),
    }[family]
    code = importlib.import_module(f"musubi_tuner.{module}")
    logging.disable(logging.WARNING)
    with torch.device("meta"):
        model = getattr(code, name)(*([code.Klein4BParams()] if family == "flux2-klein" else []))
    loader = importlib.import_module(f"musubi_tuner.networks.{network}")
    made = loader.create_arch_network_from_weights(1.0, tensors, None, model)
    made.apply_to(None, model, apply_text_encoder=False, apply_unet=True)
    wanted = {name: tensor.shape for name, tensor in made.state_dict().items()}
    logging.disable(logging.NOTSET)
    missing, unexpected = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    misfits = sum(tensors[name].shape != shape for name, shape in wanted.items() if name in tensors)
    if not misfits:
        made.load_state_dict(tensors, strict=False)
    return len(missing) + len(unexpected), misfits


if __name__ == "__main__":
    main()
