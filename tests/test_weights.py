"""Pinned files: missing and altered ones are told apart, each with the command that mends it."""

from pathlib import Path

import pytest

from trainer.errors import IntegrityError, MissingPartError
from trainer.weights import WEIGHTS, fetch, verified


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
    assert all(verified(file, weights) for file in WEIGHTS)
    assert fetch(weights) == []
