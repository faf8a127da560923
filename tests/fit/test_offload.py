"""Blocks in main memory: the fit is that of the whole base, and no copy of a layer outlives its use."""

import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, hashes, interrupted_at, write_samples
from test_resume import SETTINGS
from tiny_bases import SAVERS

from trainer.adapter import read_adapter
from trainer.bases import offload
from trainer.bases.base import Base, get_base
from trainer.bases.sketch import sketch
from trainer.console import Console
from trainer.fit import loop, stage
from trainer.fit.adapted import adapt, recompute
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.plan import ladder
from trainer.fit.tally import tally

SHORT = replace(SETTINGS, steps=2, checkpoint_every=2, warmup_steps=0, weighting="uniform", min_snr_gamma=None)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


def load(name: str, folder: Path, away: bool) -> Base:
    return get_base(name, str(folder), size_px=128, offload=away)


def fitted(base: Base, samples: Path, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    folder.mkdir()
    stage.fit(samples, base, replace(SHORT, **changes), folder, Console(quiet=True))
    return read_adapter(find_checkpoints(folder)[-1].adapter)[0]


@pytest.mark.parametrize("name", SAVERS)
def test_the_fit_is_that_of_the_whole_base(
    name: str, tiny_base: Callable[[str], Path], samples: Path, tmp_path: Path
) -> None:
    """In one fit everything is away and computed again too, in the other nothing is."""
    wanted = fitted(load(name, tiny_base(name), away=False), samples, tmp_path / "whole")
    base = load(name, tiny_base(name), away=True)
    found = fitted(base, samples, tmp_path / "away", offload=True, gradient_checkpointing=True)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-5)
    lent = [layer for layer in base.denoiser.modules() if "forward" in vars(layer)]
    kept = sum(weight.numel() for weight in base.denoiser.parameters() if not weight.requires_grad)
    assert sum(weight.numel() for layer in lent for weight in layer.parameters()) > 0.4 * kept


@pytest.mark.parametrize("again", [False, True])
def test_no_copy_outlives_its_layer_s_turn(
    again: bool, tiny_base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: dict[int, int] = {}
    most = 0
    plain = offload.fetched

    def counted(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
        nonlocal most
        copy = plain(weight, device)
        assert copy.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
        key = len(alive)
        alive[key] = copy.numel()
        weakref.finalize(copy.untyped_storage(), alive.__setitem__, key, 0)
        most = max(most, sum(alive.values()))
        return copy

    monkeypatch.setattr(offload, "fetched", counted)
    base = load("sd15", tiny_base("sd15"), away=True)
    adapt(base, SHORT)
    if again:
        recompute(base)
    base.denoiser.train()
    answer = base.predict(torch.randn(2, 4, 16, 16), torch.tensor([100, 800]), base.encode_texts(["a", "b"]))
    fetches = len(alive)
    answer.square().mean().backward()
    layers = offload.layers_of_blocks(get_base("sd15", str(tiny_base("sd15")), size_px=128).denoiser)
    assert fetches >= 1.5 * len(layers)  # weights, and most have a bias
    assert len(alive) - fetches >= 0.8 * len(layers)
    assert most <= 2 * max(sum(weight.numel() for weight in layer.parameters()) for layer in layers)
    assert sum(alive.values()) == 0


def test_a_stopped_fit_goes_on_as_if_nothing_had_happened(
    tiny_base: Callable[[str], Path], samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)
    settings = replace(SETTINGS, steps=20, checkpoint_every=20, offload=True)
    for folder, stops in (("whole", ()), ("stopped", (13,))):
        (tmp_path / folder).mkdir()
        for stop in (*stops, None):
            with suppress(KeyboardInterrupt):
                base = load("sd15", tiny_base("sd15"), away=True)
                stage.fit(samples, base, settings, tmp_path / folder, interrupted_at(stop))
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")


def test_only_the_blocks_stay_where_they_are(tiny_base: Callable[[str], Path]) -> None:
    base = load("sd15", tiny_base("sd15"), away=True)
    denoiser: Any = base.denoiser.to(torch.float64)
    assert denoiser.conv_in.weight.dtype == torch.float64
    assert denoiser.down_blocks[0].resnets[0].conv1.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["sd15", "flux1"])
def test_the_plan_counts_what_is_away(name: str, tiny_base: Callable[[str], Path]) -> None:
    whole, away = (
        tally(sketch(name, str(tiny_base(name)), size_px=128), replace(SHORT, offload=chosen), CPU)
        for chosen in (False, True)
    )
    layers = offload.layers_of_blocks(load(name, tiny_base(name), away=False).denoiser)
    assert whole.away == 0
    assert away.away == 4 * sum(weight.numel() for layer in layers for weight in layer.parameters())
    assert (away.frozen, away.adapter) == (whole.frozen, whole.adapter)
    assert away.flops == pytest.approx(whole.flops, rel=0.01)
    largest = 4 * max(weight.numel() for layer in layers for weight in layer.parameters())
    assert away.step < whole.step + 2 * largest


def test_it_is_the_ladder_s_last_rung_but_on_the_cpu() -> None:
    plain = replace(SHORT, gradient_checkpointing=True)
    assert all("fit.offload" not in rung.changes for rung in ladder(plain, "bf16"))
    last = list(ladder(plain, "bf16", "int8", "cuda"))[-1]
    assert last.words == "blocks in main memory"
    assert last.changes["fit.offload"] is True
    assert last.changes["base.quantize"] == "none"
    assert "base.quantize" not in list(ladder(plain, "bf16", "none", "cuda"))[-1].changes
    for other in (replace(plain, offload=True), replace(plain, adapter="dora")):
        assert "fit.offload" not in list(ladder(other, "bf16", "none", "cuda"))[-1].changes


def test_what_it_does_not_go_with_is_refused(cli: Command) -> None:
    said = ["fit.offload=true", "fit.adapter=dora", "base.quantize=nf4", "export.kohya=false"]
    done = cli("recipe", "check", "portrait-tiny", *[part for text in said for part in ("--set", text)])
    assert done.returncode == 2
    assert "fit.offload: a DoRA" in done.stderr
    assert "fit.offload: the layers of base.quantize" in done.stderr
