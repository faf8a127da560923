"""How many tokens a base makes of a text and how many of them it reads: what is beyond is cut without a word."""

from __future__ import annotations

from typing import Any

from trainer.bases.encoders import spelled_out

T5_TOKENS = 512  # FluxPipeline.encode_prompt, max_sequence_length
T5_TOKENS_SD3 = 256  # StableDiffusion3Pipeline.encode_prompt, max_sequence_length
CHAT_TOKENS = 512  # Flux2KleinPipeline, ZImagePipeline and QwenImagePipeline, max_sequence_length


def clip_tokens(pipeline: Any, text: str) -> tuple[int, int]:
    """Tokens of the text with its marks, and the tokenizer's own limit: CLIP has 77."""
    (spelled,) = spelled_out(pipeline, pipeline.tokenizer, [text])
    return _count(pipeline.tokenizer, spelled), pipeline.tokenizer.model_max_length


def sd3_tokens(pipeline: Any, text: str) -> tuple[int, int]:
    """As T5 counts, which reads furthest; as CLIP in a folder without it."""
    if pipeline.tokenizer_3 is None:
        return clip_tokens(pipeline, text)
    return _count(pipeline.tokenizer_3, text), T5_TOKENS_SD3


def flux_tokens(pipeline: Any, text: str) -> tuple[int, int]:
    """As T5 counts; CLIP only gives the pooled vector."""
    return _count(pipeline.tokenizer_2, text), T5_TOKENS


def chat_tokens(pipeline: Any, text: str) -> tuple[int, int]:
    """Tokens up to the text's end in the language model's chat template, and how many of the whole are read."""
    tokenizer, said = pipeline.tokenizer, [{"role": "user", "content": "{}"}]
    start = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True).partition("{}")[0]
    return _count(tokenizer, start + text), CHAT_TOKENS


def qwen_image_tokens(pipeline: Any, text: str) -> tuple[int, int]:
    """Tokens after the start of the pipeline's own template, which is not shown to the denoiser."""
    start = pipeline.prompt_template_encode.partition("{}")[0]
    return _count(pipeline.tokenizer, start + text) - pipeline.prompt_template_encode_start_idx, CHAT_TOKENS


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text).input_ids)
