"""The last checkpoint at less than its full strength: what it makes, and that it is exported as it was scored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command

from trainer.adapter import read_adapter, write_adapter
from trainer.evaluate import stage
from trainer.evaluate.select import Candidate
from trainer.evaluate.strength import checkpoint_name, weaker
from trainer.fit.checkpoint import find_checkpoints
from trainer.records import Checkpoint


@pytest.fixture
def last(trained: dict[str, Any]) -> Checkpoint:
    return find_checkpoints(trained["home"] / trained["result"]["run"] / "2_fit")[-1]


def change_of(file: Path) -> dict[str, torch.Tensor]:
    """What a file adds to each layer."""
    tensors, _ = read_adapter(file)
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith("lora_A.weight")]
    return {
        name: torch.tensordot(tensors[f"{name}.lora_B.weight"].flatten(1), tensors[f"{name}.lora_A.weight"], 1)
        for name in names
    }


def test_the_change_to_every_layer_is_scaled_and_the_strongest_comes_first(last: Checkpoint, tmp_path: Path) -> None:
    made = weaker(last, [0.25, 1.0, 0.5, 0.25], tmp_path / "weaker")
    assert [(one.step, one.strength) for one in made] == [(last.step, 0.5), (last.step, 0.25)]
    whole = change_of(last.adapter)
    assert any(change.abs().max() > 0 for change in whole.values())
    for one in made:
        for name, change in change_of(one.adapter).items():
            torch.testing.assert_close(change, one.strength * whole[name])


def test_a_dora_is_left_as_it_is(last: Checkpoint, tmp_path: Path) -> None:
    tensors, metadata = read_adapter(last.adapter)
    first = next(name for name in tensors if name.endswith(".lora_A.weight"))
    lengths = {first.replace(".lora_A.weight", ".lora_magnitude_vector"): torch.ones(4)}
    write_adapter(tmp_path / "dora.safetensors", tensors | lengths, metadata)
    assert weaker(Checkpoint(8, tmp_path / "dora.safetensors"), [0.5], tmp_path / "weaker") == []


def test_names() -> None:
    assert (checkpoint_name(400, 1.0), checkpoint_name(400, 0.8)) == ("400", "400 at 0.8")


def test_a_weaker_one_is_exported_as_it_was_scored(
    copied: Path, trained: dict[str, Any], last: Checkpoint, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the choice is forced: a random base shows nobody, whatever the strength."""

    def weakest(candidates: Sequence[Candidate], copying_limit: float) -> Candidate:
        return min(candidates, key=lambda candidate: candidate.strength)

    monkeypatch.setattr(stage, "choose", weakest)
    monkeypatch.chdir(copied)
    done = cli(*trained["arguments"], "--set", "evaluate.strengths=[0.5, 0.25]")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["reused"] == ["1_prepare", "2_fit"]
    assert (result["stages"]["4_export"]["step"], result["stages"]["4_export"]["strength"]) == (8, 0.25)
    assert result["stages"]["4_export"]["parity_levels"] <= 2
    whole, exported = change_of(last.adapter), change_of(Path(result["adapter"]))
    for name, change in exported.items():
        torch.testing.assert_close(change, 0.25 * whole[name])
    _, metadata = read_adapter(Path(result["adapter"]))
    assert (metadata["likeness.step"], metadata["likeness.strength"]) == ("8", "0.25")
    assert "with 25% of its change" in Path(result["adapter"]).with_name("README.md").read_text()
    scored = Path(result["scorecard"]).parent
    assert "8 at 0.25" in (scored / "report.html").read_text()
    rows = json.loads((scored / "scorecard.json").read_text())["checkpoints"]
    assert [(row["strength"], row["selected"]) for row in rows] == [
        (1, False), (1, False), (0.5, False), (0.25, True)
    ]  # fmt: skip
    assert not (scored / "strengths").exists()
