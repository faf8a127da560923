"""Parameters of the bases' denoisers, and of rank-16 adapters on their attention and on all their layers.

    python scripts/bench/parameters.py

The recipes' estimates of memory stand on these numbers.
"""

from __future__ import annotations

import diffusers
import torch
from peft import LoraConfig, inject_adapter_in_model
from step_time import RANK, SD15, SDXL

from trainer.bases import flux, flux2, latent_unet, qwen_image, sd3, z_image

SD35_MEDIUM = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}  # fmt: skip
FLUX2_KLEIN_4B = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
    "guidance_embeds": False,
}  # fmt: skip


def main() -> None:
    shapes = {
        "sd15": (diffusers.UNet2DConditionModel, SD15, latent_unet.TARGETS),
        "sdxl": (diffusers.UNet2DConditionModel, SDXL, latent_unet.TARGETS),
        "sd35-medium": (diffusers.SD3Transformer2DModel, SD35_MEDIUM, sd3.TARGETS),
        "flux1-dev": (diffusers.FluxTransformer2DModel, {"guidance_embeds": True}, flux.TARGETS),
        "flux2-klein": (diffusers.Flux2Transformer2DModel, FLUX2_KLEIN_4B, flux2.TARGETS),
        "qwen-image": (diffusers.QwenImageTransformer2DModel, {}, qwen_image.TARGETS),
        "z-image": (diffusers.ZImageTransformer2DModel, {}, z_image.TARGETS),
    }
    for name, (kind, config, targets) in shapes.items():
        said = [name]
        for endings in targets.values():
            with torch.device("meta"):
                model = kind(**config).requires_grad_(False)
                own = sum(parameter.numel() for parameter in model.parameters())
                options = {"r": RANK, "target_modules": endings, "init_lora_weights": False}
                inject_adapter_in_model(LoraConfig(**options), model)
            added = sum(parameter.numel() for parameter in model.parameters()) - own
            said.append(f"{added / 1e6:.1f} M")
        print(f"{said[0]}: {own / 1e6:.0f} M, adapters {' and '.join(said[1:])}")


if __name__ == "__main__":
    main()
