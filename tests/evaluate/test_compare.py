"""Runs side by side: a real difference is told, chance is not, and what cannot be compared is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command

from trainer.errors import IntegrityError, UsageError
from trainer.evaluate.compare import compare, difference, read_scored

FLOOR, CEILING = 0.1, 0.6


def scored(folder: Path, cosines: np.ndarray, photos: str = "abcd", judge: str = "onnx", **card: Any) -> Path:
    """A run folder with that evaluation."""
    (folder / "3_evaluate").mkdir(parents=True)
    mean = float(cosines.mean()) if cosines.size else None
    said = {
        "subject": "alice", "recipe": {"name": "portrait-tiny"}, "judge": {"name": judge}, "copying": {"excess": 0.01},
        "leak": {"excess": 0.0}, "prompt": {"adapter": None}, "cost": {"fit_s": 1.0}, "verdict": "fair", "reasons": [],
        "identity": {
            "mean": mean, "ci95": [mean, mean], "ceiling": CEILING, "floor_strangers": FLOOR,
            "of_ceiling": None if mean is None else (mean - FLOOR) / (CEILING - FLOOR),
        },
    }  # fmt: skip
    (folder / "3_evaluate/scorecard.json").write_text(json.dumps(said | card))
    asked = {"prompts": [f"p{i}" for i in range(len(cosines))], "seeds": cosines.shape[1], "photos": list(photos)}
    (folder / "3_evaluate/cosines.json").write_text(json.dumps(asked | {"cosines": cosines.tolist()}))
    return folder


def cosines(shift: float = 0.0, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """Pictures that differ much among themselves, as those of different prompts do, and little between runs."""
    shared = np.random.default_rng(7).normal(0.4, 0.1, (10, 2, 4))
    return shared + shift + np.random.default_rng(seed).normal(0, noise, (10, 2, 4))


def test_a_small_shift_of_every_picture_is_told_by_pairs_alone(tmp_path: Path) -> None:
    first = read_scored(scored(tmp_path / "a", cosines()))
    paired = difference(first, read_scored(scored(tmp_path / "b", cosines(0.03, seed=1))))
    apart = difference(first, read_scored(scored(tmp_path / "c", cosines(0.03, seed=1), photos="abce")))
    assert paired.paired
    assert not apart.paired
    assert paired.of_ceiling == pytest.approx(apart.of_ceiling) == pytest.approx(0.03 / (CEILING - FLOOR), abs=0.02)
    assert paired.told_apart
    assert not apart.told_apart
    assert paired.ci95[0] < paired.of_ceiling < paired.ci95[1]


def test_a_run_differs_from_itself_by_nothing(tmp_path: Path) -> None:
    run = read_scored(scored(tmp_path / "a", cosines()))
    same = difference(run, run)
    assert same.of_ceiling == 0
    assert same.ci95 == (0, 0)
    assert not same.told_apart


def test_the_first_is_the_measure_and_the_order_turns_the_sign(tmp_path: Path) -> None:
    a, b = scored(tmp_path / "a", cosines()), scored(tmp_path / "b", cosines(-0.2, seed=1))
    (down,) = compare([a, b])["differences"]
    (up,) = compare([b, a])["differences"]
    assert down["run"] == str(b)
    assert down["of_ceiling"] == pytest.approx(-up["of_ceiling"])
    assert down["of_ceiling"] < 0
    assert down["told_apart"]
    assert up["told_apart"]


def test_two_judges_are_two_measures(tmp_path: Path) -> None:
    a, b = scored(tmp_path / "a", cosines()), scored(tmp_path / "b", cosines(), judge="dlib")
    with pytest.raises(UsageError, match=r"judged by onnx, .* by dlib"):
        compare([a, b])


def test_what_is_not_there_or_not_whole_is_refused(tmp_path: Path) -> None:
    run = scored(tmp_path / "a", cosines())
    with pytest.raises(UsageError, match="two runs"):
        compare([run])
    with pytest.raises(UsageError, match="nowhere holds no finished evaluation"):
        compare([run, tmp_path / "nowhere"])
    (run / "3_evaluate/cosines.json").write_text("{")
    with pytest.raises(IntegrityError, match="not readable"):
        compare([run, run])


def test_a_run_that_is_not_measurable_is_shown_without_a_difference(tmp_path: Path, cli: Command) -> None:
    unknown = {"of_ceiling": None, "mean": None, "ci95": [None, None], "ceiling": None, "floor_strangers": None}
    empty = scored(tmp_path / "b", np.zeros((10, 2, 0)), photos="", identity=unknown)
    run = scored(tmp_path / "a", cosines())
    for runs in ([run, empty], [empty, run]):
        said = json.loads(cli("compare", *runs, "--json").stdout)["result"]
        assert [row["of_ceiling"] for row in said["runs"]].count(None) == 1
        assert said["differences"] == [
            {"run": str(runs[1]), "of_ceiling": None, "ci95": None, "paired": False, "told_apart": False}
        ]
    printed = cli("compare", run, empty)
    assert printed.returncode == 0
    assert "one of the two is not measurable" in printed.stdout


def test_the_command_compares_a_real_run(trained: dict[str, Any], cli: Command) -> None:
    run = trained["home"] / trained["result"]["run"]
    said = json.loads(cli("compare", run, run, "--json").stdout)["result"]
    assert [row["of_ceiling"] for row in said["runs"]] == [trained["result"]["stages"]["3_evaluate"]["of_ceiling"]] * 2
    assert said["differences"][0] == {
        "run": str(run), "of_ceiling": 0.0, "ci95": [0.0, 0.0], "paired": True, "told_apart": False,
    }  # fmt: skip
    card = json.loads((run / "3_evaluate/scorecard.json").read_text())
    kept = json.loads((run / "3_evaluate/cosines.json").read_text())
    assert np.mean(kept["cosines"]) == pytest.approx(card["identity"]["mean"], abs=1e-4)
    assert "holiday" not in (run / "3_evaluate/cosines.json").read_text()
    printed = cli("compare", run, run)
    assert printed.returncode == 0
    assert "too close to the first to tell" in printed.stdout
