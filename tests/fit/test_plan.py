"""What is predicted against what a real step holds, the order of the ladder, and the command."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from tiny_bases import SAVERS

from trainer.bases.base import family_of, get_base
from trainer.bases.sketch import sketch
from trainer.errors import MissingPartError, RecipeError, UsageError
from trainer.fit.adapted import shape_of
from trainer.fit.heap import Heap
from trainer.fit.lora import add_lora
from trainer.fit.plan import bytes_of, estimate, ladder, plan
from trainer.fit.settings import Settings
from trainer.fit.tally import tally
from trainer.jobs import fit_settings
from trainer.recipe import load_recipe

CPU = torch.device("cpu")
NARROW = ("int8", "nf4")


def settings_of(**values: Any) -> Settings:
    chosen = {"rank": 4, "alpha": 4.0, "targets": "attention", "batch_size": 4, "prior_batch": 2} | values
    return replace(fit_settings(load_recipe("portrait-tiny").recipe), **chosen)


def tallied(name: str, folder: Path, precision: str = "fp32", **values: Any) -> Any:
    return tally(sketch(name, str(folder), size_px=128, precision=precision), settings_of(**values), CPU)


@pytest.mark.parametrize("name", SAVERS)
def test_the_weights_of_every_family_are_counted_to_the_byte(name: str, tiny_base: Callable[[str], Path]) -> None:
    found = tallied(name, tiny_base(name))
    base = get_base(name, str(tiny_base(name)), size_px=128)
    s = settings_of()
    own = [*base.denoiser.parameters(), *base.denoiser.buffers()]
    assert found.frozen == sum(t.numel() * t.element_size() for t in own)
    weights = add_lora(base.denoiser, shape_of(s, base.lora_targets("attention")), 0)
    assert found.adapter == 12 * sum(weight.numel() for weight in weights.values())
    assert found.step > 0
    assert found.flops > 0


def test_the_step_is_what_autograd_really_keeps(tiny_base: Callable[[str], Path]) -> None:
    base = get_base("sd15", str(tiny_base("sd15")), size_px=128)
    add_lora(base.denoiser, shape_of(settings_of(), base.lora_targets("attention")), 0)
    base.denoiser.train()
    own = {tensor.untyped_storage().data_ptr() for tensor in base.denoiser.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    latents, text = torch.zeros(6, 4, 16, 16), base.encode_texts(["a"] * 6)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = base.predict(latents, torch.full((6,), 500), text).square().mean()
    assert loss.requires_grad
    # Captions are 32 tokens here and 77 in the published model; gradients and what comes and goes are on top.
    assert 0.95 < tallied("sd15", tiny_base("sd15")).step / sum(kept.values()) < 1.4


def test_on_a_cpu_the_heap_s_holes_count(tiny_base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A heap that uses nothing again is all holes; where there is none to ask, there are none."""
    folder = tiny_base("sd15")
    described = {"name": "sd15", "path": str(folder), "size_px": 128}
    monkeypatch.setattr(Heap, "is_here", lambda: False)
    without = tallied("sd15", folder)
    assert without.holes == 0
    monkeypatch.undo()
    monkeypatch.setattr(Heap, "free", lambda heap, block: None)
    found = tallied("sd15", folder)
    assert found.holes > found.step
    assert (found.step, found.frozen, found.flops) == (without.step, without.frozen, without.flops)
    predicted = estimate(described, settings_of(), "fp32", CPU)
    assert predicted.step == found.step
    assert predicted.fitting > predicted.process + predicted.frozen + predicted.adapter + 2 * found.step


def test_less_is_held_by_checkpointing_by_bf16_and_by_smaller_parts(tiny_base: Callable[[str], Path]) -> None:
    folder = tiny_base("flux1")
    plain = tallied("flux1", folder)
    again = tallied("flux1", folder, gradient_checkpointing=True)
    assert again.step < 0.95 * plain.step
    assert again.flops > 1.1 * plain.flops
    assert tallied("flux1", folder, "bf16").frozen < 0.6 * plain.frozen
    half = tallied("flux1", folder, batch_size=2, prior_batch=1)
    assert half.step < 0.7 * plain.step
    assert 2 * half.flops == pytest.approx(plain.flops, rel=0.02)


def test_the_optimizer_and_the_averages_count(tiny_base: Callable[[str], Path]) -> None:
    folder = tiny_base("sd15")
    plain = tallied("sd15", folder).adapter
    assert tallied("sd15", folder, optimizer="adamw8bit").adapter == plain // 2
    assert tallied("sd15", folder, ema_decay=0.9).adapter == plain * 4 // 3


def test_the_ladder_keeps_the_batch() -> None:
    s, rounded = settings_of(batch_size=8, prior_batch=4, accumulation=2), [f"frozen weights in {n}" for n in NARROW]
    rungs = list(ladder(s, "fp32"))
    assert [rung.words for rung in rungs] == [
        "as the recipe says", "arithmetic in bf16", "batch in 4 parts", "batch in 8 parts", "gradient checkpointing",
        "batch in 16 parts", *rounded,
    ]  # fmt: skip
    for rung in rungs[2:]:
        assert rung.changes["fit.batch_size"] * rung.changes["fit.accumulation"] == 16
        assert rung.changes["fit.precision"] == "bf16"
    assert rungs[3].changes["fit.prior_batch"] == 1
    assert "fit.gradient_checkpointing" not in rungs[3].changes
    last = settings_of(batch_size=1, gradient_checkpointing=True)
    assert [r.words for r in ladder(last, "bf16")] == ["as the recipe says", *rounded]
    assert [r.words for r in ladder(last, "bf16", "int8")] == ["as the recipe says", rounded[1]]
    assert [r.words for r in ladder(replace(last, init="pissa"), "bf16")] == ["as the recipe says"]


def test_the_plan_stops_at_the_first_rung_that_fits(tiny_base: Callable[[str], Path]) -> None:
    base = {"name": "flux1", "path": str(tiny_base("flux1")), "size_px": 128}
    s = settings_of(batch_size=4, prior_batch=2)
    whole = plan(base, s, "bf16", CPU, 10**15)
    assert [one.fits for one in whole] == [True]
    assert whole[0].step_s > 0
    none = plan(base, s, "bf16", CPU, 1)
    assert [one.fits for one in none] == [False] * len(list(ladder(s, "bf16")))
    steps = [one.estimate.step for one in none if "base.quantize" not in one.rung.changes]
    assert steps == sorted(steps, reverse=True)
    frozen = [one.estimate.frozen for one in none[-3:]]
    assert frozen == sorted(frozen, reverse=True)
    assert frozen[0] > 1.5 * frozen[1]


def test_parts_of_a_step_add_up(tiny_base: Callable[[str], Path]) -> None:
    base = {"name": "sd15", "path": str(tiny_base("sd15")), "size_px": 128}
    once, twice = (estimate(base, settings_of(accumulation=count), "fp32", CPU) for count in (1, 2))
    assert twice.flops == 2 * once.flops
    assert twice.step == once.step


@pytest.mark.parametrize("name", ["sdxl", "flux1"])
def test_what_lies_beside_the_denoiser_is_counted_in_a_folder_s_files(
    name: str, tiny_base: Callable[[str], Path]
) -> None:
    parts = (family_of(name).pipeline.from_pretrained(tiny_base(name))).components
    beside = [part for key, part in parts.items() if key.startswith("text_encoder") or key == "vae"]
    expected = sum(parameter.numel() for part in beside for parameter in part.parameters())
    drawn = sketch(name, str(tiny_base(name)), size_px=128)
    assert drawn.beside == pytest.approx(4 * expected, rel=0.01)  # some files hold a buffer too, or a tied weight once
    published = family_of(name).outline
    assert sketch(name, "a-hub/name", size_px=128).beside == 4 * (published.encoders + published.autoencoder)


@pytest.mark.parametrize("recipe", ["sdxl", "flux1-dev"])
def test_a_hub_s_base_is_drawn_without_bringing_it(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    drawn = sketch(**load_recipe(recipe).recipe.base.model_dump(), precision="bf16")
    parameters = sum(parameter.numel() for parameter in drawn.denoiser.parameters())
    assert {"sdxl": 2_567_463_684, "flux1-dev": 11_901_408_320}[recipe] == parameters
    assert drawn.size_px == 1024


@pytest.mark.parametrize("said", ["{", "[]", '{"_class_name": "Nothing"}', '{"_class_name": "logging"}'])
def test_a_folder_that_describes_nothing_is_refused(said: str, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text(said)
    with pytest.raises(MissingPartError, match=r"config\.json"):
        sketch("sd15", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "amount"), [("12GB", 12 * 10**9), ("11.5 GiB", 23 * 2**29), ("800m", 8 * 10**8), ("7", 7)]
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert bytes_of(text) == amount


@given(st.text(max_size=20))
def test_any_other_amount_is_refused_or_positive(text: str) -> None:
    with suppress(UsageError):
        assert bytes_of(text) > 0


def test_the_command_says_what_to_set(cli: Command, tiny_base: Callable[[str], Path]) -> None:
    said = ["--recipe", "sdxl", "--set", f"base.path={tiny_base('sdxl')}", "--set", "base.size_px=128"]
    done = cli("plan", *said, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["rungs"][0]["fits"] is True
    assert result["command"].startswith("trainer train SUBJECT --recipe sdxl --set base.path=")
    parts = result["rungs"][0]["bytes"]
    assert parts["fitting"] == parts["process"] + parts["frozen"] + parts["adapter"] + parts["step"] + parts["holes"]
    assert parts["peak"] >= parts["fitting"]


def test_what_cannot_fit_is_refused(cli: Command, tiny_base: Callable[[str], Path]) -> None:
    said = ["--recipe", "sdxl", "--set", f"base.path={tiny_base('sdxl')}", "--set", "base.size_px=128"]
    done = cli("plan", *said, "--memory", "1MB")
    assert done.returncode == MissingPartError.exit_status == 4
    assert "lowest rung" in done.stderr
    assert "gradient" in done.stdout
    assert cli("plan", "--memory", "much").returncode == UsageError.exit_status


def test_layers_that_the_base_lacks_are_named() -> None:
    with pytest.raises(RecipeError, match="nothing"):
        estimate({"name": "portrait-tiny"}, settings_of(targets=["nothing"]), "fp32", CPU)
