"""The subject folder: plain names only, pictures only, and forgetting that reaches no further than its person."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainer.errors import PhotosError, SubjectError
from trainer.subject import Subject, check_name, find_subject, forget


@example("a\n")
@example("..")
@example("a/../../etc")
@given(st.one_of(st.text(max_size=50), st.from_regex(r"[a-z0-9_./\\-]{1,50}", fullmatch=True)))
def test_a_name_is_a_plain_identifier_or_refused(name: str) -> None:
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
        assert find_subject(name, Path("root")).photos == Path("root/subjects") / name / "photos"
    else:
        with pytest.raises(SubjectError, match=re.escape(repr(name))):
            check_name(name)


def test_photos_elsewhere_can_be_named(tmp_path: Path) -> None:
    assert find_subject("alice", tmp_path, tmp_path / "camera").photos == tmp_path / "camera"


def test_consent_is_read_beside_the_photos(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    alice = Subject("alice", photos)
    assert alice.consent() is None
    (tmp_path / "consent.toml").write_text('given = "2026-01-01"\n')
    assert alice.consent() == {"given": "2026-01-01"}


@pytest.mark.parametrize("data", [b"given = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_consent_that_cannot_be_read_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "consent.toml").write_bytes(data)
    with pytest.raises(PhotosError, match=r"consent\.toml: not readable"):
        Subject("alice", tmp_path).consent()


def test_forgetting_reaches_one_person_only(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for folder in ("subjects/alice/photos", "subjects/bob/photos", "runs/alice/.cache/unpacked", "runs/bob/x"):
        (tmp_path / folder).mkdir(parents=True)
    assert forget("alice", tmp_path, runs) == [tmp_path / "subjects/alice", runs / "alice"]
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["bob", "bob"]
    assert forget("alice", tmp_path, runs) == []
    with pytest.raises(SubjectError):
        forget("..", tmp_path, runs)
