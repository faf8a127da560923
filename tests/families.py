"""Tiny stock pipelines of the seven families, with random weights, and random adapters of their layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trainer.layouts.layer import Tensors
from trainer.layouts.layers import canonical

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
OTHERS = ("conv_in", "conv_out", "linear_1", "linear_2", "downsamplers.0.conv", "upsamplers.0.conv")
RESIDUAL = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")
UNET = (*ATTENTION, *RESIDUAL, *OTHERS, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
TRANSFORMER = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp",
               "single_transformer_blocks.0.proj_out", "linear_in", "linear_out", "attn.to_qkv_mlp_proj", "attn.to_out",
               "mlp.net.0.proj", "mlp.net.2", "img_mod.1", "txt_mod.1", "feed_forward.w1", "feed_forward.w2",
               "feed_forward.w3", "layers.1.adaLN_modulation.0")  # fmt: skip


def adapter_for(pipeline: Any, targets: tuple[str, ...] = (*UNET, *TEXT), rank: int = 4) -> Tensors:
    """Random factors for every layer whose name ends in a target, under diffusers' names."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for part, model in pipeline.components.items():
        for name, module in model.named_modules() if isinstance(model, torch.nn.Module) and part != "vae" else ():
            weight = getattr(module, "weight", None)
            if weight is not None and weight.ndim > 1 and name.endswith(targets):
                down = torch.randn(rank, *weight.shape[1:], generator=generator)
                up = torch.randn(weight.shape[0], rank, *(1,) * (weight.ndim - 2), generator=generator)
                stem = canonical(f"{part}.{name}")
                tensors |= {f"{stem}.lora_A.weight": 0.1 * down, f"{stem}.lora_B.weight": 0.1 * up}
    return tensors


def encoder(kind: Any, width: int = 32) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=64, hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, projection_dim=32, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )
    )  # fmt: skip


def sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=2, sample_size=8, in_channels=4, out_channels=4,
        norm_num_groups=8, attention_head_dim=(2, 4), use_linear_projection=True, cross_attention_dim=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    encoders = encoder(CLIPTextModel), encoder(CLIPTextModelWithProjection)
    return StableDiffusionXLPipeline(None, *encoders, None, None, unet, EulerDiscreteScheduler())


def sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    encoders = encoder(CLIPTextModelWithProjection), None, encoder(CLIPTextModelWithProjection), None, None, None
    return StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), None, *encoders)


def flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler()
    return FluxPipeline(scheduler, None, encoder(CLIPTextModel), None, None, None, transformer)


def flux2() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    return Flux2KleinPipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)


def qwen_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return QwenImagePipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)


def z_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 4, 8],
        axes_lens=[512, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)


BUILDERS = {"sdxl": sdxl, "sd3": sd3, "flux": flux, "flux2": flux2, "qwen-image": qwen_image, "z-image": z_image}


@pytest.fixture(scope="session")
def family(request: pytest.FixtureRequest) -> Callable[[str], tuple[Any, Tensors]]:
    """A pipeline by name, without any adapter, and an adapter of its layers. Made once a session."""
    made: dict[str, tuple[Any, Tensors]] = {}

    def build(name: str) -> tuple[Any, Tensors]:
        if name not in made:
            torch.manual_seed(0)
            if name == "sd15":
                from diffusers import StableDiffusionPipeline

                folder = request.getfixturevalue("random_base")
                pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
            else:
                pipeline = BUILDERS[name]()
            targets = (*UNET, *TEXT) if name in {"sd15", "sdxl"} else (*TRANSFORMER, *TEXT)
            made[name] = pipeline, adapter_for(pipeline, targets)
        pipeline, tensors = made[name]
        pipeline.unload_lora_weights()
        return pipeline, tensors

    return build
