"""push: every file is shown first, only adapters and their papers go, and without a yes nothing does."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from typer.testing import CliRunner

from trainer.adapter import write_adapter
from trainer.errors import MissingPartError
from trainer.export.push import listing, upload

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "4_export"
    folder.mkdir()
    write_adapter(folder / "alice.safetensors", {"unet.conv_in.lora_A.weight": torch.ones(2, 2)}, {})
    write_adapter(folder / "alice.kohya.safetensors", {"lora_unet_conv_in.lora_down.weight": torch.ones(2, 2)}, {})
    for name in ("README.md", "manifest.json", "stage.json", ".alice.safetensors.part", "photo.jpg"):
        (folder / name).write_text("x")
    return folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test does, it reaches no hub."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")


def test_a_folder_stands_for_its_adapters_and_papers(exported: Path) -> None:
    files = listing("somebody/alice", [exported])
    names = ["README.md", "alice.kohya.safetensors", "alice.safetensors", "manifest.json"]
    assert [file["name"] for file in files] == names
    for file in files:
        data = Path(file["path"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_everything_is_shown_and_without_a_yes_nothing_goes(answer: str, exported: Path) -> None:
    from trainer.cli import app

    done = CliRunner().invoke(app, ["push", "somebody/alice", str(exported)], input=answer, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "nothing was uploaded" in done.stderr
    for name in ("README.md", "alice.kohya.safetensors", "alice.safetensors", "manifest.json"):
        assert name in done.stdout
    assert "Upload these 4 files to somebody/alice (private where it is new)?" in done.stdout
    assert "photo.jpg" not in done.stdout


def test_with_json_nobody_is_asked_and_nothing_goes(exported: Path, cli: Command) -> None:
    done = cli("push", "somebody/alice", exported, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["hint"] == "pass --yes to upload without being asked"


@pytest.mark.parametrize(
    ("repo", "name", "words"),
    [
        ("somebody/alice", "photo.jpg", "is no adapter, model card or manifest"),
        ("somebody/alice", "stage.json", "is no adapter, model card or manifest"),
        ("somebody/alice", "none.safetensors", "no such file"),
        ("../../etc", "README.md", "../../etc"),
        ("a/b/c", "README.md", "a/b/c"),
    ],
)
def test_photos_and_impossible_names_are_refused(
    repo: str, name: str, words: str, exported: Path, cli: Command
) -> None:
    done = cli("push", repo, exported / name, "--yes")
    assert done.returncode == 2
    assert words in done.stderr


def test_two_files_of_one_name_are_refused(exported: Path, cli: Command) -> None:
    done = cli("push", "somebody/alice", exported, exported / "README.md", "--yes")
    assert done.returncode == 2
    assert "two of one name" in done.stderr


def test_a_damaged_adapter_is_not_uploaded(exported: Path, cli: Command) -> None:
    (exported / "alice.safetensors").write_bytes(b"PK\x03\x04")
    assert cli("push", "somebody/alice", exported, "--yes").returncode == 6


def test_a_hub_that_does_not_answer_is_a_missing_part(exported: Path) -> None:
    files: list[dict[str, Any]] = listing("somebody/alice", [exported / "README.md"])
    with pytest.raises(MissingPartError, match="nothing was uploaded to somebody/alice"):
        upload("somebody/alice", files, public=False)
