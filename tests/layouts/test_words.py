"""Vectors of new words in adapter files: what is read, written, converted, merged and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.adapter import describe, read_adapter, read_whole, scaled, write_adapter, write_words
from trainer.bases.base import family_of, get_base
from trainer.bases.words import put_words
from trainer.errors import IntegrityError
from trainer.export.convert import convert
from trainer.export.merge import merge
from trainer.layouts.words import Words, alone, beside, bundled, split_words

Tensors = dict[str, torch.Tensor]
FILE = Path("alice.safetensors")
STEM = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def vectors(rows: int = 2, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def lora(width: int = 64) -> Tensors:
    return {f"{STEM}.lora_A.weight": torch.ones(2, width) / 9, f"{STEM}.lora_B.weight": torch.ones(width, 2) / 7}


def words_of_two() -> Words:
    return {"ohwx": {"clip_l": vectors(), "clip_g": vectors(2, 48, 1)}}


@pytest.mark.parametrize("words", [{"ohwx": {"clip_l": vectors()}}, words_of_two()], ids=["one", "two encoders"])
def test_what_is_written_reads_back(words: Words, tmp_path: Path) -> None:
    among, apart = tmp_path / "among.safetensors", tmp_path / "apart.safetensors"
    write_adapter(among, lora() | bundled(words), {})
    write_adapter(apart, lora(), write_words(apart, words))
    for file in (among, apart):
        tensors, found, _ = read_whole(file)
        assert tensors.keys() == lora().keys()
        assert {word: own.keys() for word, own in found.items()} == {word: own.keys() for word, own in words.items()}
        assert all(torch.equal(found["ohwx"][key], tensor) for key, tensor in words["ohwx"].items())
    assert describe(among)["words"]["ohwx"]["clip_l"] == [2, 32]
    assert describe(among)["layout"] == "diffusers"
    assert describe(apart)["words"] == {}
    weaker = scaled(lora() | bundled(words), 0.5)
    assert torch.equal(weaker["bundle_emb.ohwx.clip_l"], words["ohwx"]["clip_l"])


def test_a1111_s_name_of_the_vectors_of_sd_1_is_read() -> None:
    layers, words = split_words(FILE, lora() | {"bundle_emb.easy-Word_1.string_to_param.*": vectors()[0]})
    assert layers.keys() == lora().keys()
    assert words["easy-Word_1"]["clip_l"].shape == (1, 32)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"bundle_emb.ohwx.clip_h": vectors()}, "bundle_emb.ohwx.clip_h is no vector of a word"),
        ({"bundle_emb.../x.clip_l": vectors()}, "is no vector of a word"),
        ({"bundle_emb.a b.clip_l": vectors()}, "is no vector of a word"),
        ({"bundle_emb..clip_l": vectors()}, "is no vector of a word"),
        ({f"bundle_emb.{'a' * 41}.clip_l": vectors()}, "is no vector of a word"),
        ({"bundle_emb.ohwx.clip_l": vectors(76)}, "no table of 1 to 75 vectors: 76x32"),
        ({"bundle_emb.ohwx.clip_l": vectors(0)}, "no table of 1 to 75 vectors: 0x32"),
        ({"bundle_emb.ohwx.clip_l": vectors().long()}, "no table of 1 to 75 vectors: 2x32 of torch.int64"),
        ({"bundle_emb.ohwx.clip_l": vectors()[None]}, "no table of 1 to 75 vectors: 1x2x32"),
        ({"bundle_emb.ohwx.clip_l": torch.tensor(1.0)}, "no table of 1 to 75 vectors"),
        ({"bundle_emb.ohwx.clip_l": vectors(), "bundle_emb.ohwx.string_to_param.*": vectors()}, "under two names"),
        ({"bundle_emb.ohwx.clip_l": vectors(2), "bundle_emb.ohwx.clip_g": vectors(3)}, "not as many vectors"),
    ],
)
def test_a_hostile_bundle_is_refused(tensors: Tensors, words: str) -> None:
    with pytest.raises(IntegrityError, match=r"alice\.safetensors") as caught:
        split_words(FILE, lora() | tensors)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda file: file.unlink(), "are not beside it, in alice.tokens.safetensors"),
        (lambda file: file.write_bytes(file.read_bytes()[:-4]), "is not a readable adapter"),
        (lambda file: write_adapter(file, {"ohwx": vectors(seed=9)}, {}), "holds other vectors than"),
        (lambda file: write_adapter(file, {"other": vectors()}, {}), "holds other vectors than"),
        (lambda file: write_adapter(file, {"ohwx": torch.full((2, 32), torch.nan)}, {}), "holds NaN or infinity"),
        (lambda file: write_adapter(file, {"a": vectors(), "b": vectors()}, {}), "holds no vectors of one word"),
        (lambda file: write_adapter(file, {"../x": vectors()}, {}), "holds no vectors of one word"),
    ],
)
def test_vectors_that_are_not_the_adapter_s_are_refused(
    harm: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    file = tmp_path / FILE
    write_adapter(file, lora(), write_words(file, {"ohwx": {"clip_l": vectors()}}))
    harm(beside(file))
    with pytest.raises(IntegrityError) as caught:
        read_whole(file)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("base", "words", "said"),
    [
        ("sd15", words_of_two(), "has vectors for clip_g, clip_l; base sd15 reads clip_l"),
        ("sd15", {"ohwx": {"clip_l": vectors(width=48)}}, "has vectors of 48 numbers; text_encoder of sd15 has 32"),
        ("sd15", {"a": {"clip_l": vectors(1)}}, "base sd15 has the token a"),
        ("sdxl", {"ohwx": {"clip_l": vectors()}}, "base sdxl reads clip_l, clip_g"),
        ("sd3", {"ohwx": {"clip_l": vectors(), "clip_g": vectors()}}, "has 2 vectors; prompts of base sd3 can say one"),
        ("z-image", {"ohwx": {"clip_l": vectors()}}, "reads texts with a language model"),
    ],
)
def test_words_that_a_base_cannot_take_are_refused_and_leave_it_as_it_was(
    base: str, words: Words, said: str, tiny_base: Callable[[str], Path]
) -> None:
    loaded: Any = get_base(base, str(tiny_base(base)), size_px=128)
    before = {name: part for name, part in loaded._pipeline.components.items() if "tokenizer" in name}
    with pytest.raises(IntegrityError, match=r"alice\.safetensors") as caught:
        put_words(loaded._pipeline, family_of(base).tunable, words, FILE, base)
    assert said in caught.value.message
    assert all(getattr(loaded._pipeline, name) is part for name, part in before.items())


def test_converting_takes_the_vectors_along_and_changes_no_bit(tmp_path: Path) -> None:
    file, words = tmp_path / FILE, words_of_two()
    write_adapter(file, lora(), write_words(file, words) | {"likeness.base": "sdxl"})
    kohya, again = tmp_path / "k.safetensors", tmp_path / "again.safetensors"
    convert(file, "kohya", out=kohya)
    assert torch.equal(read_adapter(kohya)[0]["bundle_emb.ohwx.clip_g"], words["ohwx"]["clip_g"])
    convert(kohya, "diffusers", out=again)
    tensors, found, _ = read_whole(again)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in lora().items())
    assert all(torch.equal(found["ohwx"][key], tensor) for key, tensor in words["ohwx"].items())
    half = tmp_path / "half.safetensors"
    convert(again, dtype="fp16", out=half)
    assert read_whole(half)[1]["ohwx"]["clip_l"].dtype == torch.float16
    write_adapter(kohya, lora() | bundled(words | {"other": {"clip_l": vectors(seed=5)}}), {})
    with pytest.raises(IntegrityError, match="it has 2 new words"):
        convert(kohya, dtype="fp16", out=tmp_path / "two.safetensors")


def test_a_merged_base_has_the_vectors_where_diffusers_looks_for_them(random_base: Path, tmp_path: Path) -> None:
    import diffusers

    file = tmp_path / FILE
    write_adapter(file, lora(), write_words(file, {"ohwx": {"clip_l": vectors()}}))
    said = merge(file, random_base, tmp_path / "merged")
    assert said["word"] == json.loads((tmp_path / "merged/merged.json").read_text())["word"] == "ohwx"
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "merged")
    pipe.load_textual_inversion(str(tmp_path / "merged"))
    table = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[pipe.tokenizer.convert_tokens_to_ids(["ohwx", "ohwx_1"])], vectors())
    write_adapter(file, lora() | bundled({"a": {"clip_l": vectors()}, "b": {"clip_l": vectors()}}), {})
    with pytest.raises(IntegrityError, match="2 new words"):
        merge(file, random_base, tmp_path / "other")
    assert alone({"a": {"clip_l": vectors()}}).keys() == {"a"}
