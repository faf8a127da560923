"""CLIP's prompt score, by a tiny random model whose files are as real as any other to transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from tiny_bases import clip_tokenizer
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from trainer.errors import MissingPartError
from trainer.evaluate.clip import ClipScorer
from trainer.records import RGB

RNG = np.random.default_rng(0)
PICTURES: list[RGB] = [RNG.integers(0, 256, shape, np.uint8) for shape in ((128, 128, 3), (96, 160, 3), (64, 64, 3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of two small layers, written by transformers."""
    home = tmp_path_factory.mktemp("clip")
    words = clip_tokenizer(home / "words")
    torch.manual_seed(1)
    text = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1,
    }  # fmt: skip
    sight = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=sight, projection_dim=16)).save_pretrained(home / "model")
    words.save_pretrained(home / "model")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(home / "model")
    return home / "model"


def test_a_score_is_clipscore_computed_by_hand(folder: Path) -> None:
    scorer = ClipScorer(str(folder))
    texts = ["photo of person, smiling", "photo of person, in a library and much more than the model has room for"]
    scores = scorer.scores(texts, [PICTURES[:2], PICTURES[2:]])
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(PICTURES, return_tensors="pt")
    words = CLIPTokenizer.from_pretrained(folder)
    tokens = [words([text], truncation=True, max_length=32, return_tensors="pt") for text in texts]
    with torch.no_grad():
        whole = [model(pixel_values=pixels["pixel_values"], **row) for row in tokens]
    cosines = [(said.image_embeds @ said.text_embeds.T)[:, 0].clamp(min=0) * 2.5 for said in whole]
    wanted = [float(cosines[0][:2].mean()), float(cosines[1][2])]
    assert scores == pytest.approx(wanted, abs=1e-5)
    assert len({round(float(value), 6) for value in cosines[0]}) == 3


def test_its_name_holds_the_hash_of_its_files_and_no_path(folder: Path, tmp_path: Path) -> None:
    name = ClipScorer(str(folder)).name
    assert name.startswith("clip model ")
    assert len(name.split()[-1]) == 12
    assert str(folder.parent) not in name


def test_what_is_no_clip_is_a_missing_part(tmp_path: Path, random_base: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere", random_base):
        with pytest.raises(MissingPartError, match="cannot be loaded") as caught:
            ClipScorer(str(place))
        assert "evaluate.clip" in caught.value.hint


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(CLIPModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(MissingPartError):
        ClipScorer(str(tmp_path))


def test_a_run_scores_its_prompts_by_the_recipe_s_clip(
    copied: Path, trained: dict[str, object], command: Command, folder: Path
) -> None:
    done = command(copied, "evaluate", *trained["arguments"][1:], "--set", f"evaluate.clip={folder}")  # type: ignore[index]
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["reused"] == ["1_prepare", "2_fit"]
    card = json.loads((copied / result["scorecard"]).read_text())
    assert card["prompt"]["scorer"] == ClipScorer(str(folder)).name
    assert all(row["prompt_score"] is not None for row in card["by_prompt"])  # the probe has no words for some
    assert "CLIPScore" in (copied / result["scorecard"]).with_name("report.html").read_text()
