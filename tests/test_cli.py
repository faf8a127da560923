"""The command line: exit codes, one JSON envelope, messages that name what is wrong, and a quick start."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

import trainer.cli

COMMANDS = (
    "train",
    "prepare",
    "fit",
    "evaluate",
    "export",
    "portrait",
    "compare",
    "plan",
    "replay",
    "batch",
    "doctor",
    "lock",
    "inspect",
    "convert",
    "merge",
    "push",
    "forget",
    "recipe",
    "weights",
)


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    envelope = json.loads(done.stdout)
    assert not envelope["ok"]
    assert envelope["result"] == {}
    error: dict[str, str] = envelope["error"]
    assert error["message"] in done.stderr
    assert error["hint"] in done.stderr
    return error


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = "import sys, trainer.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in loaded
    assert not set(loaded) & {"torch", "diffusers", "transformers", "peft", "accelerate", "onnxruntime", "cv2", "dlib"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, cli: Command) -> None:
    done = cli(name, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_the_commands_are_these() -> None:
    groups = [group.name for group in trainer.cli.app.registered_groups]
    commands = trainer.cli.app.registered_commands
    names = [command.name or command.callback.__name__ for command in commands if command.callback]
    assert sorted(names + [name for name in groups if name]) == sorted(COMMANDS)


def test_json_is_one_envelope_on_one_line(trained: dict[str, Any]) -> None:
    assert trained["stdout"].count("\n") == 1
    envelope = json.loads(trained["stdout"])
    assert list(envelope) == ["schema", "command", "ok", "result", "error"]
    assert (envelope["schema"], envelope["command"], envelope["ok"], envelope["error"]) == (1, "train", True, None)


@pytest.mark.parametrize(
    "arguments",
    [("recipe", "list"), ("recipe", "show"), ("recipe", "check", "portrait-tiny"), ("weights", "list")],
    ids=" ".join,
)
def test_light_commands_answer_in_one_envelope_too(
    arguments: tuple[str, ...], cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "cache"))
    done = cli(*arguments, "--json")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    envelope = json.loads(done.stdout)
    assert list(envelope) == ["schema", "command", "ok", "result", "error"]
    assert envelope["ok"]
    assert envelope["result"]
    assert " ".join(arguments).startswith(envelope["command"])


@pytest.mark.parametrize("name", ["../x", "a/b", "", "Alice", ".", "-x-", "a" * 41, "a\n", "é"])
def test_a_name_that_could_build_a_path_is_refused(name: str, cli: Command, tmp_path: Path) -> None:
    done = cli("train", "--json", "--", name)
    assert done.returncode == 2
    error = error_of(done)
    assert error["code"] == "subject"
    assert repr(name) in error["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_photos_folder_is_named(cli: Command, tmp_path: Path) -> None:
    done = cli("train", "alice", "--json")
    assert done.returncode == 3
    error = error_of(done)
    assert error["code"] == "photos"
    assert str(tmp_path / "subjects/alice/photos") in error["message"]
    assert "--photos" in error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_an_empty_photos_folder_is_named(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/notes.txt").write_text("no picture")
    done = cli("train", "alice", "--photos", "photos", "--json")
    assert done.returncode == 3
    assert "photos: no pictures in it" in error_of(done)["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_unknown_key_of_a_flag_is_named(cli: Command, tmp_path: Path) -> None:
    done = cli("train", "alice", "--set", "fit.stepz=3", "--set", "nothing.at_all=1", "--json")
    assert done.returncode == 2
    error = error_of(done)
    assert error["code"] == "recipe"
    assert "--set fit.stepz: unknown key" in error["message"]
    assert "--set nothing" in error["message"]
    assert "trainer recipe show" in error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_of_a_file_is_named_with_its_line(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nfit:\n  stepz: 3\n")
    done = cli("train", "alice", "--recipe", "mine.yaml", "--json")
    assert done.returncode == 2
    assert "mine.yaml:3: fit.stepz: unknown key" in error_of(done)["message"]


def test_recipes_are_listed_with_their_files(cli: Command) -> None:
    lines = cli("recipe", "list").stdout.splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert {"portrait-tiny", "portrait-tiny-quick", "sdxl", "flux1-dev"} <= listed.keys()
    assert all(Path(file).is_file() for file in listed.values())


def test_an_unknown_recipe_lists_the_known_ones(cli: Command) -> None:
    done = cli("train", "alice", "--recipe", "nope", "--json")
    assert done.returncode == 2
    assert "portrait-tiny" in error_of(done)["hint"]


def test_a_base_that_is_not_there_is_a_missing_part(cli: Command, photos: Path, tmp_path: Path, weights: Path) -> None:
    done = cli("train", "alice", "--photos", photos, "--set", f"base.path={tmp_path / 'nothing'}", "--json")
    assert done.returncode == 4
    error = error_of(done)
    assert str(tmp_path / "nothing") in error["message"]
    assert "base.path" in error["hint"]


def test_a_second_run_of_the_same_subject_waits_for_the_first(cli: Command, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs/alice"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = cli("train", "alice", "--photos", photos, "--json")
    assert done.returncode == 2
    assert "another run" in error_of(done)["message"]


def test_an_out_that_is_no_folder_is_a_usage_error(cli: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = cli("train", "alice", "--photos", photos, "--out", "taken", "--json")
    assert done.returncode == 2
    assert "taken" in error_of(done)["message"]


def test_recipe_show_says_where_values_come_from(cli: Command) -> None:
    done = cli("recipe", "show", "--set", "fit.rank=8", "--json")
    rows = {row["key"]: row for row in json.loads(done.stdout)["result"]["values"]}
    assert (rows["fit.rank"]["value"], rows["fit.rank"]["from"]) == (8, "flag")
    assert rows["faces.gate"]["from"] == "recipe"
    assert rows["fit.steps"]["from"] == "default"
    assert all(row["doc"] for row in rows.values())


def test_without_json_words_go_to_stderr_and_results_to_stdout(cli: Command) -> None:
    done = cli("train", "../x")
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "\ntry: " in done.stderr


def test_forget_deletes_photos_and_runs_and_nothing_else(cli: Command, tmp_path: Path) -> None:
    for name in ("subjects/alice/photos", "runs/alice/x", "subjects/bob/photos", "runs/bob/x"):
        (tmp_path / name).mkdir(parents=True)
    done = cli("forget", "alice", "--yes", "--json")
    assert done.returncode == 0
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["bob", "bob"]
    assert len(json.loads(done.stdout)["result"]["deleted"]) == 2


def test_forget_asks_first(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "subjects/alice/photos").mkdir(parents=True)
    done = cli("forget", "alice", "--json")
    assert done.returncode == 2
    assert "--yes" in error_of(done)["hint"]
    assert (tmp_path / "subjects/alice/photos").is_dir()


def test_the_last_words_load_the_adapter(trained: dict[str, Any], command: Command) -> None:
    done = command(trained["home"], *(argument for argument in trained["arguments"] if argument != "--json"))
    assert done.returncode == 0, done.stderr
    assert "from_pretrained" in done.stdout
    assert "load_lora_weights" in done.stdout
    assert "verdict" in done.stdout
    assert trained["result"]["adapter"].rpartition(os.sep)[2] in done.stdout
