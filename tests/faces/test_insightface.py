"""The InsightFace engine, on a pack that holds the one free recognition model of its shape."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import MissingPartError, UsageError
from trainer.faces.base import get_detector, get_embedder
from trainer.pictures import open_picture
from trainer.records import RGB, Face

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"


@pytest.fixture
def pack(weights: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    folder.mkdir()
    shutil.copyfile(weights / "fr_feature.onnx", folder / "w600k.onnx")
    return folder


def main_face(path: Path, weights: Path) -> tuple[RGB, Face]:
    picture = open_picture(path, 10**8).rgb_u8
    return picture, max(get_detector(weights).detect(picture), key=lambda face: face.width)


def test_it_tells_a_person_from_a_stranger(pack: Path, weights: Path, demo_files: list[Path]) -> None:
    embedder = get_embedder("insightface", weights, str(pack), True)
    one, other, stranger = (embedder.embed(*main_face(path, weights)) for path in (*demo_files[:2], STRANGER))
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ other > one @ stranger + 0.1
    assert embedder.name == "insightface/pack/w600k"
    assert len(embedder.sha256) == 64


def test_it_agrees_with_the_engine_that_runs_the_same_model(pack: Path, weights: Path) -> None:
    seen = main_face(STRANGER, weights)
    theirs, ours = get_embedder("insightface", weights, str(pack), True), get_embedder("onnx", weights)
    assert theirs.embed(*seen) @ ours.embed(*seen) > 0.98  # they scale pixels by 127.5, the model's makers by 128


def test_without_accepted_terms_or_a_pack_it_says_what_to_set(pack: Path, weights: Path) -> None:
    with pytest.raises(UsageError, match="non-commercial") as caught:
        get_embedder("insightface", weights, str(pack), False)
    assert "insightface_terms_accepted" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        get_embedder("insightface", weights, None, True)
    assert "insightface_pack" in caught.value.hint


def test_a_pack_that_is_not_there_or_empty_is_a_missing_part(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPartError, match="no such folder"):
        get_embedder("insightface", weights, str(tmp_path / "nowhere"), True)
    with pytest.raises(MissingPartError, match="no recognition model"):
        get_embedder("insightface", weights, str(tmp_path), True)
