"""Tiny random models of every family, saved by the family's own stock pipeline: as real as any other to diffusers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.bases.base import Base, get_base

LETTERS = 32  # tokens of a text


def load(name: str, folder: Path, precision: str = "fp32") -> Base:
    """A base of 128 px."""
    return get_base(name, str(folder), precision=precision, size_px=128)


def clip_tokenizer(folder: Path) -> Any:
    """Every word is spelled: the byte alphabet, once more with the end-of-word mark, and no merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    folder.mkdir()
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LETTERS, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def t5_tokenizer() -> Any:
    """Unigrams of one letter each."""
    from transformers import T5TokenizerFast

    letters = [chr(code) for code in range(97, 123)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -1.0), (",", -2.0), *((c, -2.0) for c in letters)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0)


def clip_text(words: int, projected: bool, width: int = 32) -> Any:
    """A text encoder of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=words, hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LETTERS, projection_dim=width, bos_token_id=words - 2, eos_token_id=words - 1,
        pad_token_id=words - 1,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5_text(words: int, width: int) -> Any:
    """A T5 encoder of two layers."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=words, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4))


def autoencoder(channels: int, scale: float, shift: float | None) -> Any:
    """One latent for eight pixels a side, as all these families have it."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), norm_num_groups=4, latent_channels=channels, sample_size=128,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scale, shift_factor=shift,
    )  # fmt: skip


def save_sd15(folder: Path) -> None:
    """Stable Diffusion 1.x: a velocity schedule, as descendants of it have too."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer(folder.with_name("words"))
    text_encoder = clip_text(len(tokenizer), projected=False)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        norm_num_groups=8, attention_head_dim=4, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=autoencoder(4, 0.18215, None), text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def save_sdxl(folder: Path) -> None:
    """Two text encoders, pooled vector and time ids."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer(folder.with_name("words"))
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        norm_num_groups=8, attention_head_dim=(2, 4), cross_attention_dim=32 + 48, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 48,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    StableDiffusionXLPipeline(
        vae=autoencoder(4, 0.13025, None), text_encoder=clip_text(len(tokenizer), projected=False),
        text_encoder_2=clip_text(len(tokenizer), projected=True, width=48), tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=unet, scheduler=scheduler, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def save_sd3(folder: Path, t5: bool = True) -> None:
    """Three text encoders, the last of which may be missing, and a flow with a fixed shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    words, letters = clip_tokenizer(folder.with_name("words")), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
        pos_embed_max_size=24, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, 1.5305, 0.0609), text_encoder=clip_text(len(words), projected=True), tokenizer=words,
        text_encoder_2=clip_text(len(words), projected=True), tokenizer_2=words,
        text_encoder_3=t5_text(len(letters), 64) if t5 else None, tokenizer_3=letters if t5 else None,
    ).save_pretrained(folder)  # fmt: skip


def save_flux(folder: Path) -> None:
    """Packed latents, told guidance, and a flow whose shift follows the picture's size."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    words, letters = clip_tokenizer(folder.with_name("words")), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(16, 0.3611, 0.1159), text_encoder=clip_text(len(words), projected=False), tokenizer=words,
        text_encoder_2=t5_text(len(letters), 32), tokenizer_2=letters,
    ).save_pretrained(folder)  # fmt: skip


def qwen_tokenizer() -> Any:
    """Every word is spelled, and the chat template's marks are known."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2TokenizerFast

    tokenizer = Qwen2TokenizerFast(
        vocab={letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    said = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer.chat_template = said + "<|im_start|>assistant\n"
    return tokenizer


def qwen(hidden: int, layers: int) -> tuple[Any, Any]:
    """A language model and its tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, head_dim=hidden // 2, max_position_embeddings=512,
    )  # fmt: skip
    return Qwen3ForCausalLM(config), tokenizer


def save_flux2_klein(folder: Path) -> None:
    """Latents in squares, normalised by what the VAE counted; three layers of a language model."""
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
    from diffusers import Flux2Transformer2DModel as Transformer

    text_encoder, tokenizer = qwen(hidden=8, layers=28)  # it is asked for its layers 9, 18 and 27
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16), norm_num_groups=4, latent_channels=8, sample_size=128,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = Transformer(
        in_channels=32, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=vae,
        text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip


def save_z_image(folder: Path) -> None:
    """Texts of their own length, and a flow that is told and answers the other way round."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    text_encoder, tokenizer = qwen(hidden=16, layers=2)
    transformer = ZImageTransformer2DModel(
        dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 4, 8],
        axes_lens=[512, 64, 64],
    )  # fmt: skip
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=autoencoder(16, 0.3611, 0.1159),
        text_encoder=text_encoder.model, tokenizer=tokenizer, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip


def save_qwen_image(folder: Path) -> None:
    """Latents of a video of one frame, packed; texts of their own length; guidance by another name."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline
    from diffusers import QwenImageTransformer2DModel as Transformer
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    words = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    text_encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=words, vision_config=eyes))
    transformer = Transformer(
        in_channels=64, out_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1), text_encoder=text_encoder,
        tokenizer=tokenizer, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip


SAVERS: dict[str, Callable[[Path], None]] = {
    "sd15": save_sd15,
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "flux1": save_flux,
    "flux2-klein": save_flux2_klein,
    "z-image": save_z_image,
    "qwen-image": save_qwen_image,
}


def save_tiny(name: str, folder: Path) -> Path:
    """Write the family's tiny model below `folder`; the weights are the same every time."""
    import torch

    torch.manual_seed(0)
    SAVERS[name](folder / name)
    return folder / name
