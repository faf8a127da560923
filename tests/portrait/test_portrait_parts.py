"""Styles, ranking and the mark of a generated picture."""

from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.errors import UsageError
from trainer.evaluate.judge import look
from trainer.faces.attributes import VOCABULARY
from trainer.faces.base import get_detector, get_embedder
from trainer.pictures import open_picture
from trainer.portrait.provenance import GENERATED, XMP_KEY, write_generated
from trainer.portrait.rank import Likeness, best, likeness_of, ranked
from trainer.portrait.styles import DEFAULT_STYLE, STYLES, own_text, style_texts, styles_of

WHO = "ohwx person"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


@pytest.mark.parametrize("prompt_set", ["attributes", "scenes"])
def test_every_style_of_a_base_says_whom_it_shows(prompt_set: str) -> None:
    assert DEFAULT_STYLE in styles_of(prompt_set)
    for style in styles_of(prompt_set):
        texts = style_texts(style, prompt_set, WHO)
        assert texts
        assert all(text.startswith(f"photo of {WHO}, ") for text in texts)


def test_a_base_of_faces_is_asked_in_words_that_it_knows() -> None:
    for style in styles_of("attributes"):
        for text in STYLES[style]["attributes"]:
            assert set(text.split(", ")) <= set(VOCABULARY)


def test_a_style_that_the_base_cannot_picture_is_refused_with_those_that_it_can() -> None:
    with pytest.raises(UsageError, match="no style called 'painting'") as refused:
        style_texts("painting", "attributes", WHO)
    assert "headshot" in refused.value.hint
    assert "painting" not in refused.value.hint


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_own_words_always_say_the_trigger(words: str) -> None:
    if not words.strip():
        with pytest.raises(UsageError, match="empty"):
            own_text(words, "ohwx", WHO)
        return
    text = own_text(words, "ohwx", WHO)
    assert "ohwx" in text.replace(",", " ").split()
    assert words.strip() in text


def test_words_that_say_the_trigger_are_taken_as_they_are() -> None:
    assert own_text("oil painting of ohwx, smiling", "ohwx", WHO) == "oil painting of ohwx, smiling"
    assert own_text("smiling", "ohwx", WHO) == "photo of ohwx person, smiling"


def test_photos_of_the_person_rank_above_strangers_and_copies_are_told(
    weights: Path, demo_files: list[Path], tmp_path: Path
) -> None:
    detector, gate = get_detector(weights), get_embedder("onnx", weights)
    opened = [open_picture(file, 10**8).rgb_u8 for file in demo_files[:9]]
    known = look(opened[:6], detector, gate)
    blank = np.full((128, 128, 3), 128, np.uint8)
    seen = look([blank, opened[7], opened[0], opened[8]], detector, gate)
    generator = np.random.default_rng(0)
    others = generator.standard_normal((50, known.vectors.shape[1])).astype(np.float32)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    found = likeness_of(seen.vectors, [face is not None for face in seen.faces], known.vectors, others)
    assert [one.has_face for one in found] == [False, True, True, True]
    assert found[0].cosine == 0
    assert found[2].is_copy  # it is one of the photos
    assert ranked(found)[-1] == 0
    assert ranked(found).index(2) == 2
    for one in (found[1], found[3]):
        assert one.share is not None
        assert 0.6 < one.share < 1.4


def test_without_strangers_or_a_second_photo_no_share_is_made_up() -> None:
    eye = np.eye(4, dtype=np.float32)
    assert likeness_of(eye[:1], [True], eye[:3], None)[0].share is None
    alone = likeness_of(eye[:1], [True], eye[:1], eye[2:])[0]
    assert alone.share is None
    assert not alone.is_copy
    nothing = likeness_of(np.zeros((2, 0), np.float32), [False, False], eye[:2], eye[2:])
    assert [one.cosine for one in nothing] == [0, 0]


@given(st.lists(st.builds(Likeness, st.floats(-1, 1), st.none(), st.booleans(), st.booleans()), max_size=8))
def test_the_ranking_names_each_picture_once_and_none_without_a_face_before_a_face(found: list[Likeness]) -> None:
    order = ranked(found)
    assert sorted(order) == list(range(len(found)))
    faces = [found[index].has_face for index in order]
    assert faces == sorted(faces, reverse=True)


@given(st.data(), st.integers(1, 9))
def test_every_prompt_of_a_style_is_kept_as_often_as_the_others(data: st.DataObject, count: int) -> None:
    prompts = ["smiling", "bright", "dark"] * 3
    found = [Likeness(data.draw(st.floats(-1, 1)), None, True, False) for _ in prompts]
    kept = best(found, prompts, count)
    assert len(kept) == len(set(kept)) == count
    often = [[prompts[index] for index in kept].count(prompt) for prompt in set(prompts)]
    assert max(often) - min(often) <= 1
    assert [found[index].cosine for index in kept] == sorted((found[i].cosine for i in kept), reverse=True)
    for prompt in set(prompts):
        mine = {found[i].cosine for i in kept if prompts[i] == prompt}
        left = [found[i].cosine for i in range(9) if i not in kept and prompts[i] == prompt]
        assert not mine or not left or min(mine) >= max(left)


def test_a_written_portrait_says_that_it_was_generated_and_nothing_else(tmp_path: Path) -> None:
    rgb_u8 = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
    write_generated(tmp_path / "01.png", rgb_u8)
    assert [file.name for file in tmp_path.iterdir()] == ["01.png"]
    with Image.open(tmp_path / "01.png") as image:
        assert np.array_equal(np.asarray(image), rgb_u8)
        assert set(image.info) <= {XMP_KEY, "xmp"}  # the same twice, by Pillow
        (said,) = ElementTree.fromstring(image.info[XMP_KEY]).iter(f"{{{RDF}}}Description")
    assert said.attrib == {
        f"{{{RDF}}}about": "",
        "{http://ns.adobe.com/xap/1.0/}CreatorTool": f"Likeness {version('likeness-trainer')}",
        "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType": GENERATED,
    }
