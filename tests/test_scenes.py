"""A style or a brand: pictures without a face become samples, an adapter, and a scorecard that claims no likeness."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Command
from PIL import Image

from trainer.album import read_album
from trainer.console import Console
from trainer.evaluate.copying import copying_excess
from trainer.evaluate.scenes import pixels
from trainer.faces.align import crop_square
from trainer.prepare.quality import Limits
from trainer.prepare.scenes import framed, prepare_scenes, square_of
from trainer.prepare.stage import Settings, read_split
from trainer.records import RGB

SETTINGS = Settings(
    limits=Limits(**dict.fromkeys(Limits.__slots__, 0)), size_px=128, trigger="ohwx", class_word="style",
    same_person=0.3, burst=0.97, select_share=0.2, report_share=0.2, min_photos=3, max_pixels=10**8,
    captioner="sidecar", subject="alice",
)  # fmt: skip
STYLE = ("--set", "prepare.subject_kind=style", "--set", "prepare.class_word=style")


def texture(seed: int) -> RGB:
    """A (160, 240, 3) uint8 picture of soft coloured patches."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(coarse, (240, 160), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures, one of them twice, one with words, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        Image.fromarray(texture(index)).save(folder / f"p{index:02d}.png")
    Image.fromarray(texture(0)).save(folder / "again.jpg", quality=95)
    (folder / "bad.png").write_bytes(b"no picture")
    for file in folder.glob("p*.png"):
        file.with_suffix(".txt").write_text("ohwx style, a blonde woman under a tree")
    return folder


def test_pictures_are_checked_sealed_framed_and_captioned(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    album = read_album(pictures, tmp_path / "cache", captions=True)
    facts = prepare_scenes(album, SETTINGS, "centre", folder, Console(quiet=True))
    split = read_split(folder)
    assert (facts["photos"], facts["rejected"]) == (14, {"not-a-picture": 1})
    assert ("again.jpg", "p00.png") in split.groups
    assert len(split.groups) == 12
    assert min(len(split.select), len(split.report)) >= 2
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == len(split.fit)
    assert {row["text"] for row in rows} <= {"ohwx style, a blonde woman under a tree", "photo of ohwx style"}
    assert all(row["face_box"] == [0, 0, 1, 1] for row in rows)
    for row in rows:
        with Image.open(folder / row["file_name"]) as sample:
            assert sample.size == (128, 128)
    assert (folder / "sheet.png").is_file()


def test_the_middle_is_taken_or_the_whole_on_white() -> None:
    wide = texture(3)
    middle = framed(wide, "centre", (160, 160))
    assert np.abs(middle.astype(int) - wide[:, 40:200]).mean() < 1
    whole = framed(wide, "whole", (240, 240))
    assert (whole[:39] == 255).all()
    assert (whole[-39:] == 255).all()
    assert np.abs(whole[40:200].astype(int) - wide).mean() < 1


def test_copies_are_told_by_their_pixels_mirrored_or_not() -> None:
    framed_photos = [crop_square(texture(seed), *square_of(240, 160, "centre"), 64) for seed in range(27)]
    fitted, sealed, new = framed_photos[:8], framed_photos[8:11], framed_photos[11:]
    names = tuple(map(str, range(8)))
    against = pixels(fitted).vectors, pixels(sealed).vectors, names, tuple((name,) for name in names)
    copies = [picture[:, ::-1].copy() if index % 2 else picture for index, picture in enumerate(fitted)]
    assert copying_excess(pixels(copies), *against) > 0.4
    assert abs(copying_excess(pixels(new), *against)) < 0.15


@pytest.mark.parametrize(("kind", "word"), [("style", "person"), ("person", "logo"), ("brand", "artwork")])
def test_a_class_word_goes_with_its_kind(kind: str, word: str, cli: Command) -> None:
    wrong = [f"prepare.subject_kind={kind}", f"prepare.class_word={word}"]
    done = cli("recipe", "check", "portrait-tiny", "--set", wrong[0], "--set", wrong[1])
    assert done.returncode == 2
    assert f"prepare.class_word: a {kind} is called" in done.stderr


def test_nobody_is_looked_for_in_a_style(pictures: Path, cli: Command, tmp_path: Path) -> None:
    done = cli("prepare", "waves", "--photos", pictures, "--reference", pictures / "p00.png", *STYLE)
    assert done.returncode == 2
    assert "--reference tells whose face to look for: a style has no face" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_style_becomes_an_adapter_without_a_claim_of_likeness(
    pictures: Path, fast: list[str], cli: Command, tmp_path: Path
) -> None:
    arguments = ["train", "waves", "--photos", pictures, "--json", *fast, *STYLE, "--set", "evaluate.seeds=2"]
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert "train only a style whose pictures you may use" in done.stderr
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    card = json.loads((tmp_path / result["scorecard"]).read_text())
    assert card["verdict"] == "unmeasurable"
    assert "a style has no face" in card["reasons"][0]
    assert all(card["identity"][key] is None for key in ("mean", "ceiling", "of_ceiling", "pass_rate"))
    assert card["detection_rate"] is None
    assert card["diversity"]["adapter"] > 0
    assert abs(card["copying"]["excess"]) < 0.5
    assert card["checkpoints"] == []
    exported = (tmp_path / result["adapter"]).parent
    readme = (exported / "README.md").read_text()
    assert "A LoRA of one style. Say `ohwx style`" in readme
    assert "person" not in readme.partition("## Score")[0]
    assert (tmp_path / result["scorecard"]).with_name("report.html").is_file()
    again = json.loads(cli(*arguments).stdout)["result"]
    assert again["reused"] == ["1_prepare", "2_fit", "3_evaluate", "4_export"]
