"""How near two runs are: what rounding does is near, another adapter, other losses and another score are not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.adapter import write_adapter
from trainer.closeness import TOLERANCE, distances, is_close
from trainer.layouts.layer import Layer, Layers
from trainer.layouts.layers import to_diffusers, to_kohya

NAMES = ("unet.conv_in", "unet.mid_block.attentions.0.proj_in")


def near(values: dict[str, Any]) -> Any:
    return pytest.approx(values, abs=1e-9)


def adapter(seed: int) -> Layers:
    generator = torch.Generator().manual_seed(seed)
    factors = [(torch.randn(2, 8, generator=generator), torch.randn(8, 2, generator=generator)) for _ in NAMES]
    return {name: Layer(down, up, 2.0) for name, (down, up) in zip(NAMES, factors, strict=True)}


def write_run(folder: Path, layers: Layers, losses: list[float], mean: float | None) -> Path:
    for stage in ("2_fit", "3_evaluate", "4_export"):
        (folder / stage).mkdir(parents=True)
    write_adapter(folder / "4_export/zelda.safetensors", to_diffusers(layers)[0], {})
    write_adapter(folder / "4_export/zelda.kohya.safetensors", to_kohya(layers), {})
    rows = [json.dumps({"step": 10 * (index + 1), "loss": loss}) for index, loss in enumerate(losses)]
    (folder / "2_fit/metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    identity = {"mean": mean, "ci95": [None, None] if mean is None else [mean - 0.05, mean + 0.05]}
    (folder / "3_evaluate/scorecard.json").write_text(json.dumps({"identity": identity}))
    return folder


@pytest.fixture
def then(tmp_path: Path) -> Path:
    return write_run(tmp_path / "then", adapter(0), [0.5, 0.25], 0.4)


def test_a_run_is_no_way_from_itself(then: Path) -> None:
    assert distances(then, then) == near({"losses": 0, "update": 0, "likeness": 0})


def test_what_rounding_does_is_near(then: Path, tmp_path: Path) -> None:
    rounded = {name: replace(layer, up=layer.up * 1.01) for name, layer in adapter(0).items()}
    found = distances(then, write_run(tmp_path / "now", rounded, [0.5, 0.26], 0.41))
    assert found == pytest.approx({"losses": 0.04, "update": 0.01, "likeness": 0.2}, rel=1e-3)
    assert is_close(found)


@pytest.mark.parametrize(
    ("seed", "losses", "mean", "far"),
    [(1, [0.5, 0.25], 0.4, "update"), (0, [0.5, 0.3], 0.4, "losses"), (0, [0.5, 0.25], 0.46, "likeness")],
)
def test_one_thing_that_is_far_is_enough(
    seed: int, losses: list[float], mean: float, far: str, then: Path, tmp_path: Path
) -> None:
    found = distances(then, write_run(tmp_path / "now", adapter(seed), losses, mean))
    assert [key for key, value in found.items() if value is not None and value > TOLERANCE[key]] == [far]
    assert not is_close(found)


def test_another_layer_or_another_line_counts_in_full(then: Path, tmp_path: Path) -> None:
    one = {"unet.conv_in": adapter(0)["unet.conv_in"]}
    found = distances(then, write_run(tmp_path / "now", one, [0.5], 0.4))
    assert found == near({"losses": 1, "update": 0.5, "likeness": 0})


def test_what_neither_run_has_is_not_measured(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, adapter(0), [], None) for name in ("then", "now")]
    assert distances(*runs) == near({"losses": None, "update": 0, "likeness": None})
    assert is_close(distances(*runs))
