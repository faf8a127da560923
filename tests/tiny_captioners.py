"""Tiny random captioners, saved by transformers' own classes: as real as any other to what reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_bases import qwen_tokenizer

BLIP_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "smiling", "red", "coat", "park", "dark", "cup")
QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def save_blip(folder: Path) -> None:
    """One layer each of eyes and words."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **shape, "vocab_size": len(BLIP_WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 128,
        "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3, "bos_token_id": 5,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(BLIP_WORDS)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def save_florence2(folder: Path) -> None:
    """Four small stages of eyes, one layer each of reading and writing, and a tokenizer that spells."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import BartTokenizerFast, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = BartTokenizerFast(vocab=vocab, merges=[], extra_special_tokens={"image_token": "<image>"})
    text = {
        "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "max_position_embeddings": 256,
    }  # fmt: skip
    eyes = {
        "embed_dim": [8] * 4, "num_heads": [1] * 4, "num_groups": [1] * 4, "depths": [1] * 4, "window_size": 4,
        "projection_dim": 16,
    }  # fmt: skip
    config = Florence2Config(text_config=text, vision_config=eyes, image_token_id=tokenizer.image_token_id)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    pixels = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    pixels.image_seq_length = 5  # of 64 px: two by two patches and their mean
    Florence2Processor(pixels, tokenizer).save_pretrained(folder)


def save_qwen_vl(folder: Path) -> None:
    """One layer of eyes, two of words, and the marks around a picture."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *QWEN_MARKS]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    start, end, image, video = (tokenizer.convert_tokens_to_ids(mark) for mark in QWEN_MARKS)
    words = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"), "bos_token_id": None,
    }  # fmt: skip
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(
        text_config=words, vision_config=eyes, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


SAVERS: dict[str, Callable[[Path], Any]] = {"blip": save_blip, "florence2": save_florence2, "qwen-vl": save_qwen_vl}


def save_captioner(kind: str, folder: Path) -> Path:
    """Write the tiny model of that kind; the weights are the same every time."""
    import torch

    torch.manual_seed(0)
    SAVERS[kind](folder)
    return folder
