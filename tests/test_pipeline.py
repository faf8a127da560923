"""The stages in order: what is made once is never made again, what is set anew is, and damage is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

STAGES = ["1_prepare", "2_fit", "3_evaluate", "4_export"]


@pytest.fixture
def again(cli: Command, copied: Path, trained: dict[str, Any]) -> Command:
    """The finished run's command once more, in this process, with whatever is added to it."""
    places = ("--photos", copied / "subjects/zelda/photos", "--out", copied / "runs")
    return lambda *more, command="train": cli(command, *trained["arguments"][1:], *places, *more)


def result_of(done: Any, status: int = 0) -> dict[str, Any]:
    assert done.returncode == status, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    return result


def test_the_run_folder_is_what_the_contract_says(trained: dict[str, Any]) -> None:
    run = trained["home"] / trained["result"]["run"]
    assert sorted(path.name for path in run.iterdir()) == sorted([*STAGES, "lock.json", "events.jsonl"])
    assert (trained["home"] / "runs/zelda/latest").resolve() == run.resolve()
    for stage, names in {
        "1_prepare": ["images", "metadata.jsonl", "rejected.jsonl", "sheet.png"],
        "2_fit": ["checkpoints", "metrics.jsonl"],
        "3_evaluate": ["report.html", "samples", "scorecard.json"],
        "4_export": ["README.md", "manifest.json", "zelda.kohya.safetensors", "zelda.safetensors"],
    }.items():
        assert {*names, "stage.json"} <= {path.name for path in (run / stage).iterdir()}


def test_the_lock_says_all_that_the_run_hangs_on(trained: dict[str, Any]) -> None:
    lock = json.loads((trained["home"] / trained["result"]["run"] / "lock.json").read_text())
    assert {"schema", "recipe", "photos", "split", "weights", "base_sha256", "versions"} <= set(lock)
    assert len(lock["photos"]) == 14
    dealt = [photo for photos in lock["split"].values() for photo in photos]
    assert sorted(dealt) == lock["photos"]
    assert lock["recipe"]["fit"]["seed"] == 0
    assert "torch" in lock["versions"]
    assert "holiday" not in json.dumps(lock)


def test_the_log_tells_the_stages_in_order(trained: dict[str, Any]) -> None:
    log = trained["home"] / trained["result"]["run"] / "events.jsonl"
    said = [json.loads(line) for line in log.read_text().splitlines()]
    first = [(event["event"], event.get("stage")) for event in said][: 2 + 2 * len(STAGES)]
    assert first == [
        ("opened", None), *((what, stage) for stage in STAGES for what in ("started", "finished")), ("done", None),
    ]  # fmt: skip
    assert [event["at"] for event in said] == sorted(event["at"] for event in said)


def test_what_is_prepared_is_an_imagefolder_of_the_fit_photos(trained: dict[str, Any], tmp_path: Path) -> None:
    from datasets import load_dataset

    prepared = trained["home"] / trained["result"]["run"] / "1_prepare"
    facts = trained["result"]["stages"]["1_prepare"]
    assert len(list((prepared / "images").glob("*.png"))) == facts["fit"]
    rows = load_dataset("imagefolder", data_dir=str(prepared), cache_dir=str(tmp_path), split="train")
    assert len(rows) == facts["fit"]
    assert facts["captions"] == {"by": {"attributes": facts["fit"]}, "warned": {}}
    captions = [json.loads(line) for line in (prepared / "metadata.jsonl").read_text().splitlines()]
    assert all(row["text"].startswith("photo of ohwx person") for row in captions)
    assert all(len(row["face_box"]) == 4 and 0 <= min(row["face_box"]) < max(row["face_box"]) <= 1 for row in captions)
    assert rows[0]["image"].size == (128, 128)


def test_the_same_command_reuses_every_stage(again: Command, trained: dict[str, Any]) -> None:
    result = result_of(again())
    assert result["reused"] == STAGES
    for name, facts in trained["result"]["stages"].items():
        assert result["stages"][name] == facts | {"seconds": pytest.approx(facts["seconds"], abs=1e-3)}


def test_another_number_of_seeds_keeps_photos_and_fit(again: Command, copied: Path, trained: dict[str, Any]) -> None:
    result = result_of(again("--set", "evaluate.seeds=2"))
    assert result["reused"] == ["1_prepare", "2_fit"]
    assert Path(result["run"]).name != Path(trained["result"]["run"]).name
    assert (copied / "runs/zelda/latest").resolve() == Path(result["run"]).resolve()
    assert (copied / trained["result"]["adapter"]).is_file()
    assert result_of(again())["reused"] == STAGES  # the first run is still whole


def test_another_rank_keeps_the_photos_alone(again: Command) -> None:
    assert result_of(again("--set", "fit.rank=2", command="fit"))["reused"] == ["1_prepare"]


def test_one_more_photo_changes_everything(again: Command, copied: Path, demo_files: list[Path]) -> None:
    shutil.copyfile(demo_files[15], copied / "subjects/zelda/photos/new.jpg")
    result = result_of(again(command="prepare"))
    assert result["reused"] == []
    assert list(result["stages"]) == ["1_prepare"]
    assert "adapter" not in result


def test_fresh_makes_everything_anew(again: Command, trained: dict[str, Any]) -> None:
    result = result_of(again("--fresh"))
    assert result["reused"] == []
    same = ("parity_levels", "step")
    assert [result["stages"]["4_export"][key] for key in same] == [
        trained["result"]["stages"]["4_export"][key] for key in same
    ]


def test_a_missed_gate_ends_with_5_and_the_adapter_is_written(again: Command) -> None:
    done = again("--set", "evaluate.gate=0.99")
    result = result_of(done, status=5)
    assert Path(result["adapter"]).is_file()
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "gate"
    assert "0.99" in error["message"]


@pytest.mark.parametrize("file", ["1_prepare/metadata.jsonl", "2_fit/metrics.jsonl", "4_export/zelda.safetensors"])
def test_a_file_that_was_changed_is_named_and_can_be_mended(file: str, again: Command, copied: Path) -> None:
    path = copied / "runs/zelda/latest" / file
    with path.open("ab") as handle:
        handle.write(b"x")
    done = again()
    assert done.returncode == 6
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "integrity"
    assert file in error["message"]
    stage = path.resolve().parent
    assert str(stage.name) in error["hint"]
    shutil.rmtree(stage)
    assert stage.name not in result_of(again())["reused"]


def test_an_altered_weight_file_names_the_mend(
    again: Command, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in weights.iterdir():
        (cache / path.name).symlink_to(path)
    data = bytearray((weights / "fr_landmark.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (cache / "fr_landmark.onnx").unlink()
    (cache / "fr_landmark.onnx").write_bytes(data)
    monkeypatch.setenv("LIKENESS_CACHE", str(cache))
    done = again()
    assert done.returncode == 6
    error = json.loads(done.stdout)["error"]
    assert str(cache / "fr_landmark.onnx") in error["message"]
    assert error["hint"] == "trainer weights get --again"
    assert (cache / "fr_landmark.onnx").read_bytes() == data


def test_a_missing_weight_file_that_cannot_be_brought_is_a_missing_part(
    again: Command, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in weights.iterdir():
        if path.name != "fr_detect.onnx":
            (cache / path.name).symlink_to(path)
    monkeypatch.setenv("LIKENESS_CACHE", str(cache))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    done = again()
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "missing"
    assert "faceplugin-face-recognition-js" in error["message"] or "npm" in error["message"]
    assert "trainer weights get" in error["hint"]
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        path.name for path in weights.iterdir() if path.name != "fr_detect.onnx"
    )


def test_the_same_is_done_from_python(
    copied: Path, trained: dict[str, Any], fast: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer
    from trainer.errors import SubjectError

    monkeypatch.chdir(copied)
    summary = trainer.train("zelda", overrides=[value for value in fast if value != "--set"])
    assert summary["reused"] == STAGES
    assert summary["adapter"] == trained["result"]["adapter"]
    with pytest.raises(SubjectError):
        trainer.train("../zelda")
    assert trainer.Recipe().name == "portrait-tiny"
