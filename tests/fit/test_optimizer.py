"""Optimizers: each resumes bit for bit, follows its schedule, and says so when its package is missing."""

import io
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.console import Console
from trainer.errors import IntegrityError, MissingPartError
from trainer.fit.average import move_averages, start_averages
from trainer.fit.checkpoint import Trained, load_state, save_state
from trainer.fit.optimizer import build_optimizer, optimizer_state, rate_at, restore_optimizer, set_rate

KINDS = ["adamw", "adamw8bit", "prodigy", "lion", "adafactor"]
RATES = {"prodigy": 1.0, "lion": 1e-3}
MOMENTS = ("exp_avg", "exp_avg_sq", "state1", "state2")


def weights() -> dict[str, torch.Tensor]:
    """An A and a B above the size from which bitsandbytes keeps 8-bit moments, and a convolution's."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"x.lora_A.default.weight": (64, 80), "x.lora_B.default.weight": (80, 64)}
    shapes |= {"y.lora_A.default.weight": (4, 8, 3, 3), "y.lora_B.default.weight": (8, 4, 1, 1)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator) * ("A" in name))
        for name, shape in shapes.items()
    }


def trained(kind: str, ratio: float | None = None) -> Trained:
    own = weights()
    optimizer = build_optimizer(kind, own, RATES.get(kind, 1e-2), 0.01, ratio)
    return Trained(own, start_averages(own, 0.9), optimizer)


def train(what: Trained, steps: range) -> None:
    """Steps towards B A = 1, each from a gradient that depends on its number."""
    for step in steps:
        x = torch.randn((5, 80), generator=torch.Generator().manual_seed(step))
        up, down = what.weights["x.lora_B.default.weight"], what.weights["x.lora_A.default.weight"]
        loss = ((x @ (up @ down).T - 1) ** 2).mean()
        loss = loss + sum(((weight - 0.5) ** 2).mean() for name, weight in what.weights.items() if name[0] == "y")
        loss.backward()
        set_rate(what.optimizer, what.optimizer.defaults["lr"] / (step + 1))
        what.optimizer.step()
        what.optimizer.zero_grad(set_to_none=True)
        move_averages(what.averages, what.weights, 0.9, step + 1)


def equal(first: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == other.keys() and all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [None, 4.0])
def test_a_restored_optimizer_goes_on_bit_for_bit(kind: str, ratio: float | None, tmp_path: Path) -> None:
    if kind == "prodigy" and ratio:
        return  # refused with the recipe
    whole, stopped, resumed = (trained(kind, ratio) for _ in range(3))
    train(whole, range(9))
    train(stopped, range(5))
    save_state(tmp_path, 5, 1.5, stopped)
    assert load_state(tmp_path, resumed, Console(quiet=True)) == (5, 1.5)
    assert equal(resumed.weights, stopped.weights)
    train(resumed, range(5, 9))
    assert equal(resumed.weights, whole.weights)
    assert equal(resumed.averages, whole.averages)
    assert not equal(whole.weights, weights())
    forgetful = trained(kind, ratio)
    with torch.no_grad():
        for name, weight in forgetful.weights.items():
            weight.copy_(stopped.weights[name])
    train(forgetful, range(5, 9))
    assert not equal(forgetful.weights, whole.weights)  # what it remembers does matter


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_printed_to_stdout(kind: str) -> None:
    said = io.StringIO()
    with redirect_stdout(said):
        train(trained(kind), range(2))
    assert said.getvalue() == ""


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    first = trained("lion")
    train(first, range(2))
    save_state(tmp_path, 2, 0.0, first)
    for other in (trained("adamw"), trained("lion", 4.0)):
        with pytest.raises(IntegrityError, match="does not fit"):
            load_state(tmp_path, other, Console(quiet=True))


def test_eight_bits_are_a_quarter_of_the_moments() -> None:
    sizes = {}
    for kind in ("adamw", "adamw8bit"):
        one = trained(kind)
        train(one, range(1))
        large = [one.weights[name] for name in one.weights if name[0] == "x"]
        state = [t for weight in large for k, t in one.optimizer.state[weight].items() if k in MOMENTS]
        sizes[kind] = sum(tensor.nbytes for tensor in state)
    assert sizes["adamw"] == 4 * sizes["adamw8bit"] > 0


def test_lora_plus_moves_b_faster_and_nothing_else() -> None:
    plain, plus = trained("adamw"), trained("adamw", 16.0)
    for one in (plain, plus):
        train(one, range(1))
    start = weights()
    for name in start:
        moved, faster = ((one[name] - start[name]).detach().abs().max() for one in (plain.weights, plus.weights))
        assert float(faster / moved) == pytest.approx(16.0 if "lora_B" in name else 1.0, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        ("adamw8bit", "bitsandbytes", "gpu"),
        ("prodigy", "prodigyopt", "optimizers"),
        ("lion", "lion_pytorch", "optimizers"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    kind: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python's own way of saying that it is not there
    with pytest.raises(MissingPartError, match=module) as caught:
        trained(kind)
    assert caught.value.hint == f"pip install 'likeness-trainer[{extra}]'"
    assert caught.value.exit_status == 4


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [("constant", [1.0, 1.0, 1.0]), ("linear", [1.0, 0.55, 0.145]), ("cosine", [1.0, 0.55, 0.10554])],
)
def test_schedules(schedule: str, wanted: list[float]) -> None:
    assert [rate_at(schedule, 2.0, step, 24, 4) for step in (0, 1, 3)] == [0.5, 1.0, 2.0]
    found = [rate_at(schedule, 2.0, step, 24, 4) / 2 for step in (4, 14, 23)]
    assert found == pytest.approx(wanted, rel=1e-3)


@given(
    st.sampled_from(["constant", "linear", "cosine"]), st.integers(1, 400), st.integers(0, 500), st.floats(1e-6, 1.0)
)
def test_no_rate_is_above_the_peak_or_below_nothing(schedule: str, steps: int, warmup: int, peak: float) -> None:
    rates = [rate_at(schedule, peak, step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    after = rates[min(warmup, steps) :]
    assert after == sorted(after, reverse=True)


def test_values_that_are_no_tensors_come_back_too() -> None:
    one = trained("prodigy")
    train(one, range(4))
    tensors, said = optimizer_state(one.optimizer)
    other = trained("prodigy")
    restore_optimizer(other.optimizer, tensors, said)
    assert optimizer_state(other.optimizer)[1] == said
    assert other.optimizer.param_groups[0]["d"] == one.optimizer.param_groups[0]["d"] > 0
    assert json.loads(said)["groups"][0]["k"] == 4


def test_the_average_keeps_less_at_first() -> None:
    own = {"a": torch.nn.Parameter(torch.zeros(1))}
    averages = start_averages(own, 0.5)
    with torch.no_grad():
        own["a"].fill_(1.0)
    move_averages(averages, own, 0.5, 1)
    assert float(averages["a"]) == pytest.approx(1 - 2 / 11)
    move_averages(averages, own, 0.5, 1000)
    assert float(averages["a"]) == pytest.approx(1 - 2 / 11 * 0.5)
    assert start_averages(own, None) == {}
