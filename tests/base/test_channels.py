"""Numbers of channels side by side: each is trained in its own folder, and nothing that is done is done again."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import channels
import pytest
import train_autoencoder
from safetensors.torch import load_file, save_file


@pytest.mark.usefixtures("weights")
def test_what_is_not_there_is_trained_and_judged_and_the_rest_is_read_back(
    demo_files: list[Path],
    write_imagefolder: Callable[[Path, list[Path]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures, out = write_imagefolder(tmp_path / "pictures", demo_files[:12]), tmp_path / "out"
    (out / "08").mkdir(parents=True)
    (out / "08/figures.json").write_text('{"cosine": 0.5}')
    save_file(train_autoencoder.build_autoencoder(8).state_dict(), out / "08/autoencoder.safetensors")
    asked = ["--autoencoder-steps", "2", "--unet-steps", "1", "--batch", "2", "--count", "2", "--channels", "8", "16"]
    asked += ["--epsilon", "16"]
    start = ["--init-from", str(out / "08")]
    command = ["channels.py", "--pictures", str(pictures), "--out", str(out), *start, *asked]
    monkeypatch.setattr(sys, "argv", command)
    channels.main()
    first = capsys.readouterr().out.splitlines()
    figures = json.loads((out / "16/figures.json").read_text())
    assert -1 <= figures["cosine"] < 1
    assert figures["psnr"] > 0
    assert load_file(out / "16/autoencoder.safetensors")["decoder.conv_in.weight"].shape[1] == 16
    cosine = f"{figures['cosine']:.3f}"
    table = [row.split(" | ")[:2] for row in first[-3:]]
    assert table == [["| 8", "0.500"], ["| 16", cosine], ["| 16, noise predicted", cosine]]
    assert (out / "16-epsilon/latents.npy").samefile(out / "16/latents.npy")
    for folder, predicted in (("16", "v_prediction"), ("16-epsilon", "epsilon")):
        scheduler = json.loads((out / folder / "published/scheduler/scheduler_config.json").read_text())
        assert scheduler["prediction_type"] == predicted
    monkeypatch.setattr(channels, "run", None)  # nothing is left to do
    channels.main()
    assert capsys.readouterr().out.splitlines() == first[-5:]


def test_decoded_pictures_and_words_are_shared_and_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "08").mkdir()
    (tmp_path / "08/words.json").write_text("[]")
    for _ in range(2):
        channels.share_what_is_alike(tmp_path, tmp_path / "16")
    assert (tmp_path / "16/words.json").samefile(tmp_path / "08/words.json")
    assert not (tmp_path / "16/pixels.npy").exists()


def test_links_are_made_once_and_only_to_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "24").mkdir()
    (tmp_path / "24/autoencoder.safetensors").write_text("weights")
    for _ in range(2):
        channels.link(tmp_path / "24", tmp_path / "24-epsilon", channels.OF_AUTOENCODER)
    assert [file.name for file in (tmp_path / "24-epsilon").iterdir()] == ["autoencoder.safetensors"]
    assert (tmp_path / "24-epsilon/autoencoder.safetensors").samefile(tmp_path / "24/autoencoder.safetensors")


def test_noise_is_not_predicted_by_a_denoiser_trained_for_velocity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["channels.py", "--pictures", str(tmp_path), "--epsilon", "8", "--denoiser-from", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        channels.main()
    assert "leave out --denoiser-from" in capsys.readouterr().err
