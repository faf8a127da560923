"""Men and women who are not the person, told apart by the judge's vectors."""

from pathlib import Path

import numpy as np
import pytest

from trainer.bases.base import get_base
from trainer.bases.sampling import Sampling, read_pictures, sample_prompts
from trainer.console import Console
from trainer.evaluate.gallery import Gallery
from trainer.evaluate.judge import Seen, look
from trainer.evaluate.scorecard import leak
from trainer.evaluate.sexes import WOMAN, as_asked, line_of, sex_prompts
from trainer.faces.align import ARCFACE_112
from trainer.faces.base import get_detector, get_embedder
from trainer.records import Face, Floats

FACE = Face((20.0, 20.0, 108.0, 108.0), ARCFACE_112, 1.0)
LINE = np.array([1.0, 0.0, 0.1], np.float32)  # women lie where the first number is above -0.1
PROMPTS = sex_prompts()
ASKED = np.array([1.0 if WOMAN in prompt.expects else -1.0 for prompt in PROMPTS])


def gallery(first_numbers: Floats, faces: list[Face | None]) -> Gallery:
    vectors = np.stack([first_numbers, np.zeros(len(first_numbers))], 1).astype(np.float32)
    black = np.zeros((8, 8, 3), np.uint8)
    return Gallery(PROMPTS, [[black]] * len(PROMPTS), Seen(vectors, tuple(faces)))


def test_as_many_men_as_women_are_asked_for_and_nobody_is_called() -> None:
    assert [prompt.expects[0] for prompt in PROMPTS].count(WOMAN) * 2 == len(PROMPTS)
    assert all(prompt.text.startswith(f"photo of {prompt.expects[0]}") for prompt in PROMPTS)


def test_the_share_is_of_all_pictures_and_a_missing_face_is_neither() -> None:
    everybody: list[Face | None] = [FACE] * len(PROMPTS)
    assert as_asked(gallery(ASKED, everybody), LINE) == 1
    assert as_asked(gallery(-ASKED, everybody), LINE) == 0
    assert as_asked(gallery(np.ones_like(ASKED), everybody), LINE) == 0.5
    assert as_asked(gallery(ASKED, [None, *everybody[1:]]), LINE) == pytest.approx(1 - 1 / len(PROMPTS))
    nobody = Seen(np.zeros((len(PROMPTS), 0), np.float32), (None,) * len(PROMPTS))
    assert as_asked(Gallery(PROMPTS, gallery(ASKED, everybody).pictures, nobody), LINE) == 0


def test_a_judge_without_a_line_says_nothing() -> None:
    assert line_of("insightface") is None
    pictures = gallery(ASKED, [FACE] * len(PROMPTS))
    said = leak({"leak": pictures, "base_leak": pictures}, None, np.eye(2, dtype=np.float32), None)
    assert (said["sexes"], said["sexes_base"], said["sexes_change"]) == (None, None, None)


@pytest.mark.parametrize("engine", ["onnx", "dlib"])
def test_people_of_the_embedded_base_are_what_was_asked_for(engine: str, weights: Path, tmp_path: Path) -> None:
    base, line = get_base("portrait-tiny"), line_of(engine)
    assert line is not None
    sample_prompts(base, PROMPTS, range(1), Sampling(8, 4.0, 6), tmp_path, Console(quiet=True), "")
    pictures = read_pictures(tmp_path, PROMPTS, range(1))
    seen = look([picture for row in pictures for picture in row], get_detector(weights), get_embedder(engine, weights))
    assert as_asked(Gallery(PROMPTS, pictures, seen), line) >= 5 / 6
