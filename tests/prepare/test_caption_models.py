"""Captioners of transformers' own classes with tiny random weights: loaded offline, asked, cleaned, pinned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from PIL import Image
from tiny_captioners import BLIP_WORDS, SAVERS, save_captioner

from trainer.errors import MissingPartError, RecipeError
from trainer.prepare.caption_models import IMAGE, QUESTION, described, load_captioner
from trainer.recipe import load_recipe

Model = Callable[[str], Path]
CROP = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Folder of a tiny captioner of that kind."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_captioner(kind, tmp_path_factory.mktemp("captioner") / kind)
        return made[kind]

    return folder


@pytest.mark.parametrize("kind", SAVERS)
def test_every_kind_answers_about_a_picture_and_the_same_twice(kind: str, model: Model) -> None:
    captioner = load_captioner(kind, str(model(kind)), None, "alice")
    assert captioner.name == kind
    said = captioner.describe("a.jpg", CROP, ["smiling"])
    assert said == captioner.describe("b.jpg", CROP, [])
    assert said == load_captioner(kind, str(model(kind)), None, "alice").describe("a.jpg", CROP, [])
    assert "\n" not in said
    if kind == "blip":  # the other two spell bytes
        assert said
        assert set(said.split()) <= {word.lower() for word in BLIP_WORDS[6:]}


@pytest.mark.parametrize("kind", ["florence2", "qwen-vl"])
def test_the_picture_reaches_the_model(kind: str, model: Model) -> None:
    captioner = load_captioner(kind, str(model(kind)), None, "alice")
    asked = [captioner.ask.inputs(Image.fromarray(picture)) for picture in (CROP, 255 - CROP)]
    assert torch.equal(asked[0]["input_ids"], asked[1]["input_ids"])
    starts = {} if kind == "qwen-vl" else {"decoder_input_ids": torch.tensor([[2]])}
    with torch.no_grad():
        first, second = (captioner.model(**inputs, **starts).logits for inputs in asked)
    assert not torch.allclose(first, second)


def test_qwen_is_asked_the_question_with_a_mark_for_every_merged_patch(model: Model) -> None:
    ask = load_captioner("qwen-vl", str(model("qwen-vl")), None, "alice").ask
    inputs = ask.inputs(Image.fromarray(CROP))
    text = ask.tokenizer.decode(inputs["input_ids"][0])
    _, height, width = inputs["image_grid_thw"][0].tolist()
    assert text.count(IMAGE) == int(inputs["mm_token_type_ids"].sum()) == height * width // 4
    assert QUESTION in text
    tokens = torch.cat([inputs["input_ids"][0], ask.tokenizer("in a park", return_tensors="pt")["input_ids"][0]])
    assert ask.answer(tokens, inputs["input_ids"].shape[1]) == "in a park"


def test_an_answer_loses_the_person_and_the_subjects_name() -> None:
    assert described("A photo of a young woman with blonde hair, Alice,\nin a red coat.\n", "alice") == "in a red coat"


def test_what_cannot_be_loaded_is_a_missing_part(model: Model, tmp_path: Path) -> None:
    shutil.copytree(model("blip"), tmp_path / "half")
    (tmp_path / "half/model.safetensors").unlink()
    torch.save({}, tmp_path / "half/pytorch_model.bin")  # a pickle is no way out
    for kind, folder in (("blip", tmp_path / "half"), ("florence2", tmp_path), ("qwen-vl", model("blip"))):
        with pytest.raises(MissingPartError, match="cannot be loaded") as caught:
            load_captioner(kind, str(folder), None, "alice")
        assert "prepare.captioner_path" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["captioner=blip"], "captioner_path: needed for blip"),
        (["captioner=blip", "captioner_path=a/b"], "captioner_revision: a/b is no folder"),
        (["captioner=sidecar", "captioner_path=a/b"], "captioner_path: not for sidecar"),
        (["captioner=blip", "captioner_path=a/b", "captioner_revision=main"], "captioner_revision"),
    ],
)
def test_a_captioner_is_named_and_pinned(values: list[str], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        load_recipe("portrait-tiny", [f"prepare.{value}" for value in values])


def test_a_run_is_captioned_by_a_model_in_a_folder(
    photos: Path, tmp_path: Path, cli: Command, fast: list[str], weights: Path, model: Model
) -> None:
    chosen = ["--set", "prepare.captioner=blip", "--set", f"prepare.captioner_path={model('blip')}"]
    done = cli("prepare", "alice", "--photos", "photos", "--json", *fast, *chosen)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["result"]["stages"]["1_prepare"]
    assert facts["captions"]["by"]["blip"] > 0
    run = tmp_path / "runs/alice/latest"
    texts = [json.loads(line)["text"] for line in (run / "1_prepare/metadata.jsonl").read_text().splitlines()]
    assert all(text.startswith("photo of ohwx person, ") for text in texts)
    assert len(json.loads((run / "lock.json").read_text())["captioner_sha256"]) == 64
