"""Prompt scores and diversity, on pictures that plainly show or do not show what was asked for."""

from pathlib import Path

import numpy as np
import pytest

from trainer.errors import UsageError
from trainer.evaluate.judge import Seen, look
from trainer.evaluate.probe import diversity, mean_score, prompt_scores
from trainer.evaluate.prompts import leak_prompts, paraphrases, report_prompts, select_prompts
from trainer.faces.align import ARCFACE_112
from trainer.faces.attributes import VOCABULARY, AttributeReader
from trainer.faces.base import get_detector, get_embedder
from trainer.pictures import open_picture
from trainer.records import RGB, Face, Prompt

FACE = Face((20.0, 20.0, 108.0, 108.0), ARCFACE_112, 1.0)


def ramp(left: int, right: int) -> RGB:
    return np.tile(np.linspace(left, right, 128).astype(np.uint8)[None, :, None], (128, 1, 3))


@pytest.fixture
def reader(weights: Path) -> AttributeReader:
    return AttributeReader(weights)


def seen(*faces: Face | None) -> Seen:
    return Seen(np.zeros((len(faces), 2), np.float32), faces)


def test_scores_are_the_share_of_words_shown(reader: AttributeReader) -> None:
    prompts = [
        Prompt("lit", "light", ("light from the left",)),
        Prompt("both", "light", ("light from the right", "black and white")),
        Prompt("free", "neutral"),
    ]
    left, right = ramp(240, 20), ramp(20, 240)
    pictures = [[left, right], [left, right], [left, right]]
    scores = prompt_scores(prompts, pictures, seen(*[FACE] * 6), reader)
    assert scores == [0.5, 0.75, None]
    assert mean_score(scores) == pytest.approx(0.625)


def test_a_picture_without_a_face_shows_nothing(reader: AttributeReader) -> None:
    prompts = [Prompt("lit", "light", ("light from the left",))]
    assert prompt_scores(prompts, [[ramp(240, 20)] * 2], seen(FACE, None), reader) == [0.5]
    assert prompt_scores(prompts, [[ramp(240, 20)] * 2], seen(None, None), reader) == [0.0]


def test_nothing_asked_is_no_score() -> None:
    assert mean_score([None, None]) is None
    assert mean_score([]) is None


def test_diversity_is_none_of_one_zero_of_equals_and_more_of_others() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2))
    assert diversity([[a]]) is None
    assert diversity([[a, a], [b, b]]) == 0
    between = diversity([[a, b]])
    assert between is not None
    assert 0.2 < between < 0.8


@pytest.mark.parametrize("kind", ["attributes", "scenes"])
def test_prompts_call_the_person_and_expect_words_that_can_be_measured(kind: str) -> None:
    prompts = report_prompts(kind, "ohwx person")
    assert len({prompt.text for prompt in prompts}) == len(prompts) >= 12
    assert all("ohwx person" in prompt.text for prompt in prompts)
    assert {word for prompt in prompts for word in prompt.expects} <= set(VOCABULARY)
    assert prompts[0].text == "photo of ohwx person"


@pytest.mark.parametrize("count", [1, 2, 6, 11, 40])
def test_select_prompts_are_different_ones_without_style(count: int) -> None:
    prompts = report_prompts("attributes", "ohwx person")
    chosen = select_prompts(prompts, count)
    assert len({prompt.text for prompt in chosen}) == len(chosen) == min(count, 11)
    assert all(prompt.group != "style" for prompt in chosen)


def test_leak_prompts_never_say_the_trigger() -> None:
    prompts = leak_prompts("attributes", "person")
    assert prompts
    assert all(prompt.group == "leak" and "ohwx" not in prompt.text for prompt in prompts)
    assert all("ohwx person" in prompt.text for prompt in paraphrases("ohwx person"))


def test_an_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        report_prompts("songs", "ohwx person")
    assert "scenes" in caught.value.hint


def test_what_is_not_asked_for_is_not_measured_and_changes_no_score(
    reader: AttributeReader, weights: Path, demo_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [open_picture(file, 10**8).rgb_u8 for file in demo_files[:2]]
    found = look(pictures, get_detector(weights), get_embedder("onnx", weights))
    prompts = [Prompt(word, "any", (word,)) for word in VOCABULARY]
    scores = prompt_scores(prompts, [pictures] * len(prompts), seen(*found.faces * len(prompts)), reader)
    words = [reader.read(picture, face).words() for picture, face in zip(pictures, found.faces, strict=True) if face]
    assert scores == [np.mean([word in shown for shown in words]) for word in VOCABULARY]
    assert sum(score for score in scores if score) > 0

    monkeypatch.setattr(reader, "_smile", lambda *_: pytest.fail("the expression was measured"))
    prompt_scores(prompts[2:], [pictures] * (len(prompts) - 2), seen(*found.faces * (len(prompts) - 2)), reader)
