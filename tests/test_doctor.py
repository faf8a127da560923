"""What the doctor says of this machine, and of machines that lack something."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from trainer import doctor


def states(findings: list[doctor.Finding]) -> dict[str, str]:
    return {finding.what: finding.state for finding in findings}


@pytest.mark.usefixtures("weights")
def test_a_machine_that_runs_the_tests_is_ready(cli: Command) -> None:
    done = cli("doctor", "--json")
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    assert done.returncode == 0, done.stdout
    assert result["ready"]
    whats = [finding["what"] for finding in result["findings"]]
    assert whats == ["packages", "processor", "memory", "face models", "portrait-tiny", "folder", "folder"]


def test_what_is_missing_is_brought_later_and_what_is_altered_is_not(
    weights: Path, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "cache"))
    assert states(doctor.look_around(tmp_path))["face models"] == "note"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/fr_detect.onnx").write_bytes((weights / "fr_detect.onnx").read_bytes()[:-1])
    done = cli("doctor", "--json")
    envelope = json.loads(done.stdout)
    assert done.returncode == 4
    assert envelope["error"]["hint"] == "trainer weights get --again"
    assert not envelope["result"]["ready"]


def test_twins_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(doctor.twins()) == []

    def found(name: str) -> str:
        return {"onnxruntime-gpu": "1.22", "torch": "2.0", "pillow": "3.1"}.get(name) or version(name)

    monkeypatch.setattr(doctor, "version", found)
    (twin,) = doctor.twins()
    assert (twin.what, twin.state) == ("onnxruntime", "broken")
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu" in twin.hint
    (packages,) = doctor.packages()
    assert packages.state == "broken"
    assert "torch>=2.6 (here: 2.0)" in packages.says
    assert "pillow>=11 (here: 3.1)" in packages.says
    assert packages.says.count("here") == 2


def test_a_full_disk_and_a_folder_of_others_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (good,) = doctor.room([tmp_path / "not" / "yet"])
    assert good.state == "good"
    monkeypatch.setattr(doctor, "ROOM_GB", 1e6)
    (full,) = doctor.room([tmp_path])
    assert (full.state, full.hint) == ("broken", "make room there")
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    (closed,) = doctor.room([tmp_path])
    assert "cannot be written" in closed.says


def test_a_gpu_that_pytorch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor, "best_device", lambda: doctor.torch.device("cpu"))
    (finding,) = doctor.processor()
    assert finding.state == "note"
    assert "cannot use it" in finding.says
