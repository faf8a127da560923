"""Captions: the trigger once, what varies and never who it is; the user's own .txt files, sealed ones unread."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Completed
from hypothesis import given
from hypothesis import strategies as st

from trainer.album import MAX_CAPTION_BYTES, read_album
from trainer.console import Console
from trainer.errors import PhotosError
from trainer.faces.attributes import VOCABULARY
from trainer.prepare.captions import Captioning, Captions, SidecarCaptioner, read_sidecars, tidy, with_trigger
from trainer.prepare.identity_words import identity_words, without_identity, without_somebody
from trainer.run import sha256_of

JPEG = b"\xff\xd8 not decoded here"
words = st.sampled_from(
    ["smiling", "ohwx", "OHWX woman", "ohwx person", "in a park", ",", ".", "\n", "é", "ohwxy", " "]
)


@given(st.lists(words, max_size=8).map(" ".join) | st.text(max_size=60))
def test_the_trigger_is_there_once_first_and_followed_by_the_class_word(text: str) -> None:
    caption = with_trigger(tidy(text), "ohwx", "person")
    assert len(re.findall(r"\bohwx\b", caption, re.IGNORECASE)) == 1
    assert "ohwx person" in caption.split(", ")[0]
    assert caption == tidy(caption)


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("", "photo of ohwx person"),
        ("smiling,  on a beach,\n\nbright", "photo of ohwx person, smiling, on a beach, bright"),
        ("a selfie of ohwx woman on a beach, smiling", "a selfie of ohwx person on a beach, smiling"),
        ("smiling, photo of OHWX, dark", "photo of ohwx person, smiling, dark"),
        ("ohwxy, smiling", "photo of ohwx person, ohwxy, smiling"),
    ],
)
def test_a_text_becomes_a_caption(text: str, caption: str) -> None:
    assert with_trigger(tidy(text), "ohwx", "person") == caption


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("smiling in a red coat, dark background, black dress, brown leather bag", []),
        ("at an indian restaurant, young trees, white wall, an old car, green grass", []),
        ("long brown wavy hair and Blue Eyes", ["brown wavy hair", "blue eyes"]),
        ("a 34-year-old asian woman", ["34-year-old", "asian"]),
        ("blonde, green-eyed, in her late thirties", ["blonde", "green-eyed", "in her late thirties"]),
        ("a young bearded man who looks like a celebrity", ["young", "celebrity"]),
        ("look-alike, fair-skinned, of Irish descent", ["look-alike", "fair-skinned", "of irish descent"]),
        ("Anna on a beach", ["anna"]),
        ("a banana on a beach", []),
    ],
)
def test_identity_words_are_found_and_their_lookalikes_left(text: str, found: list[str]) -> None:
    assert identity_words(text, "anna-k") == found


def test_what_is_measured_is_never_an_identity_word() -> None:
    assert [word for word in VOCABULARY if identity_words(word)] == []


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("a woman with long brown hair and a blue shirt", "a blue shirt"),
        ("a photo of a smiling young asian woman in a red coat", "smiling in a red coat"),
        ("The image shows a man with blue eyes standing in front of a tree. He is holding a cup.",
         "standing in front of a tree, He is holding a cup"),
        ("blue eyes, blonde, on a beach", "on a beach"),
        ("a blonde woman", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_a_models_answer_loses_who_it_is_and_keeps_the_rest(answer: str, left: str) -> None:
    assert without_identity(without_somebody(answer)) == left


@given(st.text(max_size=80) | st.lists(st.sampled_from(
    ["a", "young", "woman", "with", "blue", "eyes", "and", "brown", "hair", ",", ".", "anna", "34 years old", "who"]
), max_size=12).map(" ".join))  # fmt: skip
def test_nothing_of_identity_is_left_after_cutting(text: str) -> None:
    assert identity_words(without_identity(text, "anna"), "anna") == []


HOW = Captioning(captioner="sidecar", subject="alice")


def test_sidecars_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffLächelnd,draußen\r\nbright\x00".encode())
    assert read_sidecars({"trip/a.jpg": tmp_path / "a.txt"}, HOW) == {"trip/a.jpg": "Lächelnd, draußen, bright"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n , \n", "empty"),
        (b"caf\xe9", "not UTF-8"),
        (b"ohwx smiling at Ohwx", "trigger ohwx more than once"),
        (b"alice, blue eyes", r"says who it is \(alice, blue eyes\)"),
    ],
)
def test_a_bad_sidecar_is_named_with_its_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "00.txt").write_bytes(data)
    (tmp_path / "b.txt").write_text("fine")
    files = {"phone.zip/a.jpg": tmp_path / "00.txt", "b.jpg": tmp_path / "b.txt"}
    with pytest.raises(PhotosError, match=rf"1 of 2 captions .*\n  phone\.zip/a\.txt: .*{reason}") as caught:
        read_sidecars(files, HOW)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("choice", "text"), [("cut", "smiling, on a beach"), ("warn", "smiling, blue eyes, on a beach")]
)
def test_identity_words_can_be_cut_or_kept(choice: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("smiling, blue eyes, on a beach")
    how = Captioning(captioner="sidecar", identity_words=choice)
    assert read_sidecars({"a.jpg": tmp_path / "a.txt"}, how) == {"a.jpg": text}


def test_what_is_doubtful_is_said_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    captions = Captions(SidecarCaptioner({"a": "blue eyes", "b": "blue eyes"}), HOW)
    assert {captions.of(name, np.zeros((8, 8, 3), np.uint8), ["dark"]) for name in "ab"} == {
        "photo of ohwx person, blue eyes"
    }
    assert captions.finish(Console()) == {"by": {"sidecar": 2}, "warned": {"identity": 2, "same_text": 2}}
    said = capsys.readouterr().err
    assert "2 captions say who it is (blue eyes)" in said
    assert "all 2 captions are the same" in said


def test_a_captioner_without_a_word_is_refused() -> None:
    captions = Captions(SidecarCaptioner({}), HOW)
    captions.of("a", np.zeros((8, 8, 3), np.uint8), ["dark"])
    with pytest.raises(PhotosError, match="said nothing"):
        captions.finish(Console())


def test_texts_are_found_beside_photos_in_folders_and_archives(tmp_path: Path) -> None:
    (tmp_path / "photos/trip").mkdir(parents=True)
    for name in ("a.jpg", "trip/b.HEIC", "trip/c.png", "trip/c.jpg"):
        (tmp_path / "photos" / name).write_bytes(JPEG + name.encode())
    for name in ("a.TXT", "trip/b.txt", "trip/c.txt", "notes.txt", "trip/a.txt"):
        (tmp_path / "photos" / name).write_text(name)
    with zipfile.ZipFile(tmp_path / "photos/phone.zip", "w") as archive:
        for name in ("DCIM/1.jpg", "DCIM/1.txt", "DCIM/2.txt", "1.txt"):
            archive.writestr(name, name)
    found = read_album(tmp_path / "photos", tmp_path / "cache", captions=True).captions
    assert {photo: text.path.read_text() for photo, text in found.items()} == {
        "a.jpg": "a.TXT", "trip/b.HEIC": "trip/b.txt", "trip/c.png": "trip/c.txt", "trip/c.jpg": "trip/c.txt",
        "phone.zip/DCIM/1.jpg": "DCIM/1.txt",
    }  # fmt: skip
    assert all(text.sha256 == sha256_of(text.path) for text in found.values())
    assert read_album(tmp_path / "photos", tmp_path / "cache").captions == {}


def test_a_text_too_long_for_a_caption_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(JPEG)
    (tmp_path / "photos/a.txt").write_bytes(bytes(MAX_CAPTION_BYTES + 1))
    with pytest.raises(PhotosError, match=r"a\.txt: longer than 64 KiB"):
        read_album(tmp_path / "photos", tmp_path / "cache", captions=True)
    (tmp_path / "photos/a.txt").unlink()
    with zipfile.ZipFile(tmp_path / "photos/p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.jpg", JPEG)
        archive.writestr("b.txt", bytes(2**24))
    with pytest.raises(PhotosError, match=r"p\.zip/b\.txt: longer than 64 KiB"):
        read_album(tmp_path / "photos", tmp_path / "cache", captions=True)
    assert not list((tmp_path / "cache").rglob("*.txt"))


Prepare = Callable[..., Completed]


@pytest.fixture
def prepare(cli: Command, fast: list[str], weights: Path) -> Prepare:
    """`trainer prepare alice` of tmp_path/photos with the user's own captions."""
    return lambda *more: cli(
        "prepare", "alice", "--photos", "photos", "--json", "--set", "prepare.captioner=sidecar", *fast, *more
    )


def test_sidecars_caption_the_samples_and_those_of_sealed_photos_are_never_read(
    photos: Path, tmp_path: Path, prepare: Prepare
) -> None:
    for index, photo in enumerate(sorted(photos.iterdir())):
        photo.with_suffix(".txt").write_text(f"scene {index}")
    assert prepare().returncode == 0
    split = json.loads((tmp_path / "runs/alice/latest/1_prepare/split.json").read_text())
    for name in (*split["select"], *split["report"]):  # any of these would be refused where it was read
        (photos / name).with_suffix(".txt").write_bytes(b"\xff ohwx ohwx alice blue eyes")
    (photos / split["fit"][0]).with_suffix(".txt").unlink()
    done = prepare()
    assert done.returncode == 0, done.stderr
    prepared = tmp_path / "runs/alice/latest/1_prepare"
    rows = [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"].partition(", ")[0] for row in rows] == ["photo of ohwx person"] * len(split["fit"])
    said = [row["text"].partition(", ")[2] for row in rows]
    assert said[1:] == [f"scene {int(name[7:9])}" for name in split["fit"][1:]]
    assert said[0].split(", ")[-1] in VOCABULARY
    assert "sidecar has no words for 1 of" in done.stderr
    facts = json.loads(done.stdout)["result"]["stages"]["1_prepare"]["captions"]
    assert facts == {"by": {"attributes": 1, "sidecar": len(rows) - 1}, "warned": {}}


def test_sidecars_that_cannot_be_used_end_with_the_photos_code(photos: Path, prepare: Prepare, tmp_path: Path) -> None:
    done = prepare()
    assert done.returncode == 3
    assert "no photo to fit on has a .txt" in done.stderr
    for photo in sorted(photos.iterdir()):
        photo.with_suffix(".txt").write_text("alice with blue eyes")
    done = prepare()
    assert done.returncode == 3
    assert "holiday" in done.stderr
    assert "says who it is (alice, blue eyes)" in done.stderr
    assert not list(tmp_path.rglob("1_prepare"))
    assert prepare("--set", "prepare.identity_words=warn").returncode == 0


def test_what_is_written_is_an_imagefolder_and_kohyas_folder(photos: Path, tmp_path: Path, prepare: Prepare) -> None:
    from datasets import load_dataset

    for photo in sorted(photos.iterdir()):
        photo.with_suffix(".txt").write_text(f"on a beach, {photo.stem}")
    assert prepare().returncode == 0
    prepared = tmp_path / "runs/alice/latest/1_prepare"
    shutil.copytree(prepared, tmp_path / "copy")
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "copy"), cache_dir=str(tmp_path / "hf"), split="train")
    pictures = sorted((prepared / "images").glob("*.png"))
    assert len(rows) == len(pictures)  # sheet.png is none of them
    beside = [picture.with_suffix(".txt").read_text() for picture in pictures]
    assert sorted(f"{row['text']}\n" for row in rows) == sorted(beside)
    assert all(set(row) == {"image", "text", "face_box"} and row["image"].size == (128, 128) for row in rows)
    assert all(text.startswith("photo of ohwx person, on a beach, holiday") for text in beside)
