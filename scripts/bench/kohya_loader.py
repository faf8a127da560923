"""Whether the loaders of sd-scripts take our kohya files whole: kohya's own code, models of their full size.

    git clone https://github.com/kohya-ss/sd-scripts
    pip install einops            # besides what this project needs
    python scripts/bench/kohya_loader.py --sd-scripts sd-scripts

For each family a random adapter of every layer of `attention+conv` and of the CLIP text encoders is written in kohya's
layout. sd-scripts then builds its network from the file and loads it. The models have no weights (PyTorch's meta
device), so that a whole FLUX.1 costs no memory. A key left over, missing or changed ends with exit 1.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trainer.adapter import read_adapter, write_adapter
from trainer.bases import flux, latent_unet, sd3, sdxl
from trainer.layouts.layer import Tensors
from trainer.layouts.layers import canonical, read_layers, to_kohya

RANK = 2
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
UNET = {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), "cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SD3 = {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
    "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)),
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Ours: diffusers' parts by component and the layers to adapt. Theirs: the module and its model, to be called."""

    parts: Callable[[], dict[str, torch.nn.Module]]
    targets: Sequence[str]
    network: str
    model: Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd-scripts", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=FAMILIES, default=list(FAMILIES))
    args = parser.parse_args()
    find(args.sd_scripts)
    print("| family | layers | keys | missing | unexpected | changed |\n|---|---|---|---|---|---|")
    rows = {name: check(FAMILIES[name]) for name in args.only}
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(map(str, row)) + " |")
    sys.exit(any(any(row[2:]) for row in rows.values()))


def find(folder: Path) -> None:
    """Make sd-scripts importable. Its loaders call nothing of torchvision, which only has to be there by name."""
    sys.path.insert(0, str(folder.resolve()))
    if importlib.util.find_spec("torchvision") is None:
        vision = ModuleType("torchvision")
        vision.transforms = ModuleType("torchvision.transforms")  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": vision, "torchvision.transforms": vision.transforms}
    importlib.import_module("library.utils")
    logging.disable(logging.WARNING)


def check(family: Family) -> tuple[int, int, int, int, int]:
    """Layers and keys of our file, and how many keys are missing, unexpected or another tensor after the load."""
    with torch.device("meta"):
        parts, theirs = family.parts(), family.model()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        ours = adapter_of(parts, family.targets)
        write_adapter(file, to_kohya(read_layers(file, ours, {})), {})
        written, _ = read_adapter(file)
        loader = importlib.import_module(family.network)
        encoders = [as_before(part) for name, part in parts.items() if name.startswith("text_encoder")]
        network, weights = loader.create_network_from_weights(1.0, str(file), None, encoders, theirs)
    network.apply_to(encoders, theirs)
    missing, unexpected = network.load_state_dict(weights, False)
    kept = sorted(map(fingerprint, network.state_dict().values())) == sorted(map(fingerprint, written.values()))
    return len(ours) // 2, len(written), len(missing), len(unexpected), int(not kept)


def adapter_of(parts: dict[str, torch.nn.Module], targets: Sequence[str]) -> Tensors:
    """Random factors for every layer of the text encoders and every layer of the denoiser that is a target."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for part, model in parts.items():
        wanted = TEXT if part.startswith("text_encoder") else targets
        for name, module in model.named_modules():
            if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d) or not name.endswith(tuple(wanted)):
                continue
            outside, inside, *window = module.weight.shape
            stem = canonical(f"{part}.{name}")
            tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, inside, *window, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(outside, RANK, *(1 for _ in window), generator=generator)
    return tensors


def as_before(encoder: torch.nn.Module) -> torch.nn.Module:
    """The encoder with its modules below `text_model`, as in the transformers 4 that sd-scripts asks for."""
    if any(name.startswith("text_model.") for name, _ in encoder.named_modules()):
        return encoder
    holder = torch.nn.Module()
    holder.text_model = encoder
    return holder


def fingerprint(tensor: torch.Tensor) -> tuple[tuple[int, ...], float]:
    return tuple(tensor.shape), float(tensor.double().sum())


def clip(projected: bool = False, **sizes: int) -> torch.nn.Module:
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**sizes))


def clip_l(projected: bool = False) -> torch.nn.Module:
    return clip(projected, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)


def clip_g() -> torch.nn.Module:
    return clip(True, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20)


def kohyas(module: str, name: str, **options: Any) -> Any:
    return getattr(importlib.import_module(f"library.{module}"), name)(**options)


def kohyas_flux() -> Any:
    models = importlib.import_module("library.flux_models")
    return models.Flux(models.configs["dev"].params)


def kohyas_sd3() -> Any:
    models = importlib.import_module("library.sd3_models")
    depth, both = SD3["num_layers"], list(SD3["dual_attention_layers"])
    return models.create_sd3_mmdit(models.SD3Params(2, depth, 384**2, 384, 2048, "rms", both, 4096, 1536, "medium"))


FAMILIES = {
    "sd15": Family(
        lambda: {"unet": diffusers.UNet2DConditionModel(**UNET), "text_encoder": clip_l()},
        latent_unet.TARGETS["attention+conv"],
        "networks.lora",
        lambda: kohyas("original_unet", "UNet2DConditionModel", sample_size=64, cross_attention_dim=768),
    ),
    "sdxl": Family(
        lambda: {
            "unet": diffusers.UNet2DConditionModel(**SDXL), "text_encoder": clip_l(), "text_encoder_2": clip_g()
        },
        sdxl.TARGETS["attention+conv"],
        "networks.lora",
        lambda: kohyas("sdxl_original_unet", "SdxlUNet2DConditionModel"),
    ),
    "sd35-medium": Family(
        lambda: {
            "transformer": diffusers.SD3Transformer2DModel(**SD3), "text_encoder": clip_l(True),
            "text_encoder_2": clip_g(),
        },
        sd3.TARGETS["attention+conv"],
        "networks.lora_sd3",
        kohyas_sd3,
    ),
    "flux1-dev": Family(
        lambda: {"transformer": diffusers.FluxTransformer2DModel(guidance_embeds=True), "text_encoder": clip_l()},
        flux.TARGETS["attention+conv"],
        "networks.lora_flux",
        kohyas_flux,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main()
