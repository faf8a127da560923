"""The base's benchmark: what is asked, what is kept of a stopped run, who counts as unseen, and how tables count."""

import sys
from collections.abc import Callable
from pathlib import Path

import base_against
import base_curve
import base_prompts
import base_samples
import base_tables
import check_autoencoder
import kept_faces
import numpy as np
import pages
import pytest
from ages import AGE_WORDS
from base_real import Real, read_real
from pictures import framed, numbered, read_pictures
from PIL import Image

from trainer.bases.base import get_base
from trainer.faces.attributes import VOCABULARY

WORDS = ["woman", "asian", "smiling", "close-up"]


def test_every_word_of_the_probe_is_asked_for_alone_by_everyone() -> None:
    asked = base_samples.asked_for(20 * 7, "attributes", [])
    alone = {(one.labels, one.expects[0]) for one in asked if len(one.expects) == 1}
    everyone = {one.labels for one in asked}
    assert len(everyone) == len(base_samples.WHO)
    assert alone >= {
        (labels, word) for labels in everyone for word in (*VOCABULARY, *AGE_WORDS) if word not in ("facing front",)
    } - {(labels, "even light") for labels in everyone}
    assert len({one.seed for one in asked}) == len(asked)


def test_a_caption_is_asked_for_whole_and_takes_turns_with_the_single_words() -> None:
    asked = base_samples.asked_for(4, "attributes", [WORDS])
    assert [one.captioned for one in asked] == [False, True, False, True]
    assert asked[1].text == "photo of woman, asian, smiling, close-up"
    assert asked[1].expects == ("smiling", "close-up")
    assert asked[1].labels == ("woman", "asian")
    assert base_samples.asked_for(2, "attributes", [WORDS]) == asked[:2]


def test_a_stopped_run_makes_only_what_is_missing(random_base: Path, tmp_path: Path) -> None:
    base = get_base("portrait-tiny", str(random_base))
    asked = base_samples.asked_for(3, "attributes", [])
    first = base_samples.make(base, asked, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    again = base_samples.make(base, asked, tmp_path)
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [True, False, True]
    assert np.array_equal(first[0], again[0])
    assert np.abs(first[1].astype(int) - again[1]).max() <= 1  # alone in its batch
    base_samples.make(base, base_samples.asked_for(4, "attributes", []), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def faces(demo_files: list[Path], count: int) -> list[np.ndarray]:
    return [np.asarray(Image.open(file).convert("RGB").resize((128, 128))) for file in demo_files[:count]]


def test_vectors_are_kept_by_pixels(weights: Path, demo_files: list[Path], tmp_path: Path) -> None:
    pictures = [*faces(demo_files, 2), np.zeros((128, 128, 3), np.uint8)]
    vectors = kept_faces.embedded(pictures, "onnx", weights, tmp_path)
    assert vectors.any(1).tolist() == [True, True, False]
    (kept,) = tmp_path.iterdir()
    np.save(kept, vectors + 1)  # what is kept is what comes back
    assert np.array_equal(kept_faces.embedded(pictures, "onnx", weights, tmp_path), vectors + 1)
    other = [pictures[1], pictures[0], pictures[2]]
    assert np.allclose(kept_faces.embedded(other, "onnx", weights, tmp_path), vectors[[1, 0, 2]], atol=1e-5)
    words = kept_faces.words_in(pictures, weights, tmp_path)
    assert words[0]
    assert words[2] == []
    assert kept_faces.words_in(pictures, weights, tmp_path) == words


def test_people_are_numbered_by_source_and_only_those_with_a_face_are_pooled() -> None:
    people = numbered([("a", 1), ("a", 2), ("a", 1), ("b", 1), ("a", None), ("a", None)])
    assert people[0] == people[2]
    assert len(set(people)) == 5
    real = Real(
        np.zeros((6, 1, 1, 3), np.uint8), [["person"]] * 6, [{}] * 6, np.array(["a"] * 6), people,
        trained=np.array([0, 1, 4]), held_out=np.array([5, 3]),
    )  # fmt: skip
    pool = real.pool(np.array([3, 5]), np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert pool.people.tolist() == [people[3]]


@pytest.mark.usefixtures("weights")
def test_an_imagefolder_is_read_as_the_trainings_read_it(
    demo_files: list[Path], tmp_path: Path, write_imagefolder: Callable[[Path, list[Path]], Path]
) -> None:
    folder = write_imagefolder(tmp_path / "pictures", demo_files[:4])
    real = read_real(folder, tmp_path / "cache")
    assert real.pixels.shape == (4, 128, 128, 3)
    assert len(real.trained) + len(real.held_out) == 4
    assert real.labels(0) == ("woman",)
    assert real.words[0][0] == "woman"
    (folder / "metadata.jsonl").write_text("\n".join((folder / "metadata.jsonl").read_text().splitlines()[:3]))
    with pytest.raises(SystemExit, match="are not those of"):
        read_real(folder, tmp_path / "cache")


def seen(count: int, dimensions: int = 3) -> base_tables.Seen:
    vectors = np.random.default_rng(count).normal(size=(count, dimensions))
    return base_tables.Seen(vectors, vectors, [["smiling"]] * count)


def test_distances_are_between_equally_many_faces_and_left_out_for_too_few() -> None:
    one, other = seen(20), seen(12)
    other.judge[0] = other.gate[0] = 0  # no face
    measured = base_tables.distance(one, other, 15)
    assert measured is not None
    assert measured.size == 11
    assert measured.frechet[0] == measured.frechet[1] > 0
    assert base_tables.distance(one, seen(3), 15) is None
    assert "| some | - |" in base_tables.distances(one, {"some": seen(3)}, 15)


def test_a_missing_face_follows_no_prompt() -> None:
    asked = base_samples.asked_for(4, "attributes", [WORDS])
    shown = base_tables.followed([asked[1], asked[3]], [["smiling"], []])
    assert shown == {"smiling": [True, False], "close-up": [False, False]}
    table = base_tables.steering(asked, base_tables.Seen(np.eye(4), np.eye(4), [[]] * 4), [None, True, None, False])
    assert "| sex: woman | - | 50.0% of 2 |" in table


def test_the_probe_is_measured_by_labels_and_by_what_it_finds_again() -> None:
    words = [["turned left", "old"], ["turned left"], ["old"], []]
    other = [["turned left"], ["turned right", "old"], [], ["old"]]
    assert base_tables.found_again("turned left", words, other) == [True, False]
    assert base_tables.found_again("old", words, other) == [False]
    assert base_tables.found_again(None, words, other) == []
    facts = [{"age": "70"}, {"age": "20"}, {}, {}]
    table = base_tables.probe(words, {"again": other}, facts, ["lfw"] * 4, {"man": [True]})
    for row in (
        "| age: old | 100.0% of 1 | 0.0% of 1 |",
        "| age: young | 0.0% of 1 | - |",
        "| sex: man | 100.0% of 1 | - |",
    ):
        assert row in table
    assert "| pose: turned left | - | 50.0% of 2 |" in table


def test_each_sex_is_counted_where_it_is_labelled_and_a_face_is_found() -> None:
    line = np.array([1.0, 0.0])  # women lie above 0
    labels = [("woman",), ("man", "asian"), ("man",), ("person",), ("woman",)]
    right = base_against.sexes_right(line, np.array([[1.0], [-1.0], [1.0], [1.0], [0.0]]), labels)
    assert right == [True, True, False, None, None]
    assert base_tables.by_word(labels, right) == {"woman": [True], "man": [True, False]}


def test_the_autoencoder_is_measured_against_the_original(weights: Path, demo_files: list[Path]) -> None:
    originals = np.stack([*faces(demo_files, 1), np.zeros((128, 128, 3), np.uint8)])
    (same, nobody) = check_autoencoder.kept(originals, originals)
    assert same is not None
    assert same[0] == pytest.approx(1, abs=1e-5)
    assert nobody is None
    (worse, _) = check_autoencoder.kept(originals, originals // 2)
    assert worse is not None
    assert worse[1] < same[1]
    assert check_autoencoder.psnr_db(np.zeros(4, np.uint8), np.full(4, 10, np.uint8)) == pytest.approx(28.13, abs=0.01)
    table = check_autoencoder.table({"all": [same, None], "man": [None]})
    assert "| all | 2 | 50.0% | 1.000 |" in table
    assert "| man | 1 | 0.0% | - |" in table


def test_a_picture_lying_on_its_side_is_trained_on_upright_and_no_picture_is_named(tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :20] = 255  # the left half is white; turned a quarter clockwise it is the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "side.png", exif=exif)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "side.png"}\n')
    (read,) = read_pictures(tmp_path)
    upright = framed(read)
    assert upright[:40].mean() > 250
    assert upright[-40:].mean() < 5
    (tmp_path / "side.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"side\.png: cannot be read"):
        list(read_pictures(tmp_path))


def test_a_table_replaces_its_own_and_nothing_else_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    pages.write_table(page, "a", "one")
    pages.write_table(page, "b", "two")
    pages.write_table(page, "a", "three\n")
    assert page.read_text() == (
        "# Title\n\n<!-- a: start -->\nthree\n<!-- a: end -->\n\n<!-- b: start -->\ntwo\n<!-- b: end -->\n"
    )


def test_a_curve_has_a_row_a_base_as_it_was_measured_last(tmp_path: Path) -> None:
    file = tmp_path / "curve.jsonl"
    lines = [
        '{"base": "a", "found": 0.5}',
        '{"base": "b", "label": "two", "recall_gate": 0.25}',
        '{"base": "a", "found": 1}',
    ]
    file.write_text("\n".join(lines))
    days = base_curve.read(file)
    assert [base_curve.name(day) for day in days] == ["a", "two"]
    assert days[0]["found"] == 1
    for text, reason in (("", "holds no line"), ('{"base": "a"}\n[]', "line 2"), ("{", "line 1")):
        file.write_text(text)
        with pytest.raises(SystemExit, match=reason):
            base_curve.read(file)


def test_a_trigger_stands_before_the_class_word_and_changes_nothing_else() -> None:
    asked = base_samples.asked_for(40, "attributes", [])
    changed = base_prompts.with_trigger(asked, "ohwx")
    for before, after in zip(asked, changed, strict=True):
        assert after.text.count("ohwx") == 1
        assert f"photo of ohwx {before.labels[0]}" in after.text
        assert after.text.replace("ohwx ", "") == before.text
        assert (after.seed, after.expects) == (before.seed, before.expects)


def test_faces_are_compared_with_those_at_their_place() -> None:
    one, other = np.eye(4), np.eye(4)
    one[1] = other[2] = 0  # no face
    other[3] = [0, 0.6, 0, 0.8]
    words: list[list[str]] = [[]] * 4
    cosines = base_prompts.same_place(base_tables.Seen(one, one, words), base_tables.Seen(other, other, words))
    assert cosines.tolist() == pytest.approx([1, 0.8])
    assert base_prompts.mean(cosines) == "0.900"
    assert base_prompts.mean(cosines[:0]) == "-"
    assert sorted(base_tables.Seen(other, other, words).pairs()) == pytest.approx([0, 0, 0.6])
    pixels = np.full((2, 2, 2, 3), 100, np.uint8)
    pixels[0, 0, 0, 1], pixels[1, 1, 1] = 255, 0
    assert base_prompts.clipped(list(pixels)) == 2 / 8


@pytest.mark.usefixtures("weights")
def test_every_guidance_and_every_unknown_word_has_its_row(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["base_prompts.py", "--base", random_base, "--count", 2, "--guidance", 1, 8, "--work", tmp_path]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    base_prompts.main()
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    first, second = rows[: rows.index("| prompt")], rows[rows.index("| prompt") :]
    assert first == ["| guidance", "| ---", "| 1", "| 8"]
    assert second[2] == "| plain"
    assert second[-1] == "| other seeds"
    assert len(second) == 2 + 1 + len(base_prompts.TRIGGERS) + len(base_prompts.BEHIND) + 1


def test_a_figure_that_was_not_measured_is_a_dash() -> None:
    rows = pages.figures_table("x", {"a": {"one": 1}, "b": {"two": 0.25}}, {"one": "1", "two": "2"}).splitlines()
    assert rows == ["| x | 1 | 2 |", "|---|---|---|", "| a | 1.000 | - |", "| b | - | 0.250 |"]
