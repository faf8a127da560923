"""What the denoiser learns from: rare words more often, and pictures of cropped sources whole as well."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
import train_autoencoder
import training_set
from PIL import Image
from safetensors.torch import save_file

CROPPED_SOURCES = np.repeat(["pictures", "synthetic"], 6)  # of `cropped_folder`


@pytest.fixture
def cropped_folder(
    tmp_path: Path, demo_files: list[Path], write_imagefolder: Callable[[Path, list[Path]], Path]
) -> Path:
    """Twelve pictures, the last six of a source that is cropped, in a white frame that the crop leaves out."""
    folder = write_imagefolder(tmp_path / "pictures", demo_files[:12])
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines[6:]:
        line["source"] = "synthetic"
        file = folder / line["file_name"]
        framed = Image.new("RGB", (256, 256), "white")
        framed.paste(Image.open(file).convert("RGB").resize((170, 170)), (43, 45))
        framed.save(file)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_rare_words_are_drawn_more_often_only_where_all_of_them_are_there() -> None:
    rare, plain = ["man", "middle-aged", "asian", "color photo"], ["man", "middle-aged"]
    words = [["man", "old"], plain, rare, ["man"], ["woman", "old"]]
    drawn = training_set.repeated(np.array([3, 2, 0, 4, 1]), words)
    often = training_set.OFTEN
    assert np.bincount(drawn).tolist() == [often, 1, often, 1, 2 * often]


def test_only_trained_pictures_of_cropped_sources_are_shown_whole(cropped_folder: Path, tmp_path: Path) -> None:
    train = pictures.held_out_split(pictures.people_of(cropped_folder)).train
    rows = pictures.also_whole(CROPPED_SOURCES, train)
    assert len(rows)
    assert set(rows.tolist()) <= {row for row in train.tolist() if row >= 6}
    whole = pictures.load_whole(cropped_folder, rows, tmp_path / "whole.npy")
    cropped = pictures.load_pixels(cropped_folder, tmp_path / "pixels.npy")[rows]
    assert whole.shape == cropped.shape
    assert (whole[:, :8].mean(axis=(1, 2, 3)) > 250).all()
    assert (cropped[:, :8].mean(axis=(1, 2, 3)) < 250).all()


@pytest.mark.usefixtures("weights")
def test_a_training_set_shows_whole_pictures_with_their_own_words_and_nobody_held_out(
    cropped_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    torch.manual_seed(0)
    save_file(train_autoencoder.build_autoencoder(4).state_dict(), out / "autoencoder.safetensors")
    known = training_set.load_training_set(cropped_folder, out, torch.device("cpu"))
    rows = pictures.also_whole(CROPPED_SOURCES, pictures.held_out_split(pictures.people_of(cropped_folder)).train)
    assert len(known.latents) == len(known.words) == 12 + len(rows)
    assert set(known.drawn.tolist()) | set(known.held_out.tolist()) == set(range(12 + len(rows)))
    assert not set(known.drawn.tolist()) & set(known.held_out.tolist())
    cropped = [known.words[row] for row in rows]
    assert all("wide shot" in words for words in known.words[12:])
    assert not any("wide shot" in words for words in cropped)
    again = training_set.load_training_set(cropped_folder, out, torch.device("cpu"))
    assert np.array_equal(again.latents, known.latents)
    assert again.words == known.words


def test_a_folder_without_cropped_sources_shows_nothing_twice(
    tmp_path: Path, demo_files: list[Path], write_imagefolder: Callable[[Path, list[Path]], Path]
) -> None:
    folder = write_imagefolder(tmp_path / "pictures", demo_files[:4])
    rows = pictures.also_whole(np.array(["mine"] * 4), np.arange(4))
    assert rows.tolist() == []
    assert pictures.load_whole(folder, rows, tmp_path / "whole.npy").shape == (0, 128, 128, 3)
