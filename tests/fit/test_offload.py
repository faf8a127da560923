"""Blocks in main memory: the fit is that of the whole base to the bit, and the device holds two blocks at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import ROOT, Command, hashes, interrupted_at, write_samples
from test_processes import launched
from test_resume import SETTINGS
from tiny_bases import SAVERS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.bases import offload
from trainer.bases.base import Base, family_of, get_base
from trainer.bases.sketch import sketch
from trainer.console import Console
from trainer.fit import loop, plan, stage
from trainer.fit.adapted import adapt, recompute
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.plan import bytes_a_second, estimate, ladder
from trainer.fit.tally import tally

SHORT = replace(SETTINGS, steps=2, checkpoint_every=2, warmup_steps=0, weighting="uniform", min_snr_gamma=None)
CPU = torch.device("cpu")
PLAIN = {"targets": "attention"}  # what the other starts are for


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


def load(name: str, folder: Path, away: bool, precision: str = "fp32") -> Base:
    return get_base(name, str(folder), size_px=128, precision=precision, offload=away)


def fitted(base: Base, samples: Path, folder: Path, **changes: Any) -> dict[str, str]:
    """Hashes of the metrics and the checkpoints."""
    folder.mkdir()
    stage.fit(samples, base, replace(SHORT, **changes), folder, Console(quiet=True))
    return hashes(folder)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", SAVERS)
def test_the_fit_is_that_of_the_whole_base_to_the_bit(
    name: str, again: bool, tiny_base: Callable[[str], Path], samples: Path, tmp_path: Path
) -> None:
    wanted = fitted(load(name, tiny_base(name), away=False), samples, tmp_path / "whole", gradient_checkpointing=again)
    base = load(name, tiny_base(name), away=True)
    found = fitted(base, samples, tmp_path / "away", offload=True, gradient_checkpointing=again)
    assert len(found) > 1
    assert found == wanted
    assert any("forward" in vars(layer) for layer in base.denoiser.modules())


@pytest.mark.parametrize("name", SAVERS)
def test_nearly_all_of_the_published_model_lies_in_blocks(name: str) -> None:
    config = dict(family_of(name).outline.config)
    with torch.device("meta"):
        denoiser: Any = getattr(diffusers, config["_class_name"]).from_config(config)
    layers = [layer for block in offload.layers_of_blocks(denoiser) for layer in block]
    assert len(layers) == len(set(layers))
    share = sum(p.numel() for layer in layers for p in layer.parameters()) / sum(
        p.numel() for p in denoiser.parameters()
    )
    assert share > 0.9


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("bf16", {}),
        ("fp32", {"accumulation": 2, "ema_decay": 0.9, "dropout": 0.1, "adapter": "rslora"}),
        ("fp32", {"text_encoder_rate": 0.5, "gradient_checkpointing": True}),
        ("fp32", {"init": "pissa", **PLAIN}),
        ("fp32", {"init": "olora", "gradient_checkpointing": True, **PLAIN}),
        ("fp32", {"warm_start": "start"}),
    ],
)
def test_it_goes_with_every_other_choice(
    precision: str, changes: dict[str, Any], tiny_base: Callable[[str], Path], samples: Path, tmp_path: Path
) -> None:
    """The base is portrait-tiny's kind: in bf16 its weights stay fp32, and each is rounded where it is used."""
    folder = tiny_base("sd15")
    if "warm_start" in changes:
        fitted(load("portrait-tiny", folder, away=False), samples, tmp_path / "start")
        changes = {"warm_start": str(find_checkpoints(tmp_path / "start")[-1].adapter)}
    wanted = fitted(load("portrait-tiny", folder, False, precision), samples, tmp_path / "whole", **changes)
    away = load("portrait-tiny", folder, True, precision)
    assert fitted(away, samples, tmp_path / "away", offload=True, **changes) == wanted


class Watched(offload.Lender):
    """Says what it does: whose turn it is, whether that block had come ahead of it, and what came."""

    told: list[tuple[str, int]]

    def __init__(self, blocks: Sequence[Sequence[torch.nn.Module]]) -> None:
        super().__init__(blocks)
        Watched.told = []
        Watched.made = self

    def _turn_to(self, block: int) -> None:
        Watched.told.append(("ready" if block in self._held else "late", block))
        super()._turn_to(block)

    def _bring(self, block: int) -> None:
        Watched.told.append(("came", block))
        super()._bring(block)
        assert len(self._held) <= 2
        assert {place for place, _ in self._held.values()} <= {0, 1}


class OnlyCopied(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Nothing is computed with these tensors, and copies are counted. On a GPU they could not be read."""

    HARMLESS = ("aten::detach", "aten::alias", "aten::empty_like")  # of no data

    def __init__(self, tensors: Iterator[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        read = [tensor for tensor in given if tensor.untyped_storage().data_ptr() in self.places]
        if read and func.name() == "aten::copy_":
            assert read == [given[1]]
            self.copied += given[1].nbytes
        elif read:
            assert func.name() in self.HARMLESS, func.name()
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["sd15", "flux1", "qwen-image"])
def test_the_device_holds_the_block_at_work_and_the_next_which_comes_ahead(
    name: str, again: bool, tiny_base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "Lender", Watched)
    base = load(name, tiny_base(name), away=True)
    layers = [layer for layer in base.denoiser.modules() if "forward" in vars(layer)]
    text, noisy = base.encode_texts(["a", "b"]), torch.randn(2, {"sd15": 4}.get(name, 16), 16, 16)
    adapt(base, SHORT)
    if again:
        recompute(base)
    base.denoiser.train()
    with OnlyCopied(weight for layer in layers for weight in layer.parameters()) as watching:
        for _ in range(2):
            Watched.told.clear()
            watching.copied = 0
            base.predict(noisy, torch.tensor([100, 800]), text).square().mean().backward()
    count = len({block for word, block in Watched.told if word == "came"}) + 2  # two lie there from the first step
    assert [block for word, block in Watched.told if word == "late"] == []
    assert sum(word == "came" for word, _ in Watched.told) <= 2 * (count - 2) + (name == "sd15")
    blocks = [sum(weight.nbytes for weight in offload._weights(block)) for block in Watched.made._blocks]
    assert watching.copied <= 2 * sum(blocks)
    places = sum(place.nbytes for place in Watched.made._places)
    assert places <= 2 * max(blocks) + 2 * offload.ALIGNED * 2 * len(layers)


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


PROCESSES = """
import os, sys
os.environ["ACCELERATE_USE_CPU"] = "true"
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {fit!r}]
from test_offload import SHORT
from trainer.bases.base import get_base
from trainer.console import Console
from trainer.fit import stage
samples, folder, out = map(Path, sys.argv[1:])
away = out.name == "away"
base = get_base("sd15", str(folder), size_px=128, offload=away)
stage.fit(samples, base, replace(SHORT, offload=away), out, Console(quiet=True))
"""


def test_two_processes_with_it_fit_as_two_without(
    tiny_base: Callable[[str], Path], samples: Path, tmp_path: Path
) -> None:
    script = tmp_path / "two.py"
    script.write_text(PROCESSES.format(tests=str(ROOT / "tests"), fit=str(ROOT / "tests/fit")))
    for name in ("whole", "away"):
        (tmp_path / name).mkdir()
        process = launched(tmp_path, script, samples, tiny_base("sd15"), tmp_path / name)
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
    assert len(find_checkpoints(tmp_path / "away")) == 1
    assert hashes(tmp_path / "away") == hashes(tmp_path / "whole")


def test_only_the_blocks_stay_where_they_are(tiny_base: Callable[[str], Path]) -> None:
    base = load("sd15", tiny_base("sd15"), away=True)
    denoiser: Any = base.denoiser.to(torch.float64)
    assert denoiser.conv_in.weight.dtype == torch.float64
    assert denoiser.down_blocks[0].resnets[0].conv1.weight.dtype == torch.float32


def weights_of_blocks(name: str, folder: Path) -> list[list[torch.Tensor]]:
    denoiser = load(name, folder, away=False).denoiser
    return [
        [weight for layer in block for weight in layer.parameters()] for block in offload.layers_of_blocks(denoiser)
    ]


@pytest.mark.parametrize("name", ["sd15", "flux1"])
def test_the_plan_counts_what_is_away(name: str, tiny_base: Callable[[str], Path]) -> None:
    whole, away = (
        tally(sketch(name, str(tiny_base(name)), size_px=128), replace(SHORT, offload=chosen), CPU)
        for chosen in (False, True)
    )
    blocks = weights_of_blocks(name, tiny_base(name))
    assert whole.away == 0
    assert away.away == sum(weight.nbytes for block in blocks for weight in block)
    assert (away.frozen, away.adapter) == (whole.frozen, whole.adapter)
    assert away.flops == pytest.approx(whole.flops, rel=0.01)
    room = max(sum(weight.nbytes + offload.ALIGNED for weight in block) for block in blocks)
    assert away.step < whole.step + 2 * room


def test_a_gpu_is_told_to_hold_what_is_not_away(
    tiny_base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is counted on the CPU: without a GPU torch makes no backward pass for one, even without data."""
    monkeypatch.setattr(plan, "tally", lambda drawn, s, device: tally(drawn, s, CPU))
    monkeypatch.setattr(plan, "memory_of", lambda device: 10**12)
    base = {"name": "flux1", "path": str(tiny_base("flux1")), "size_px": 128}
    gpu = torch.device("cuda")
    whole, away = (estimate(base, replace(SHORT, offload=chosen), "fp32", gpu) for chosen in (False, True))
    blocks = weights_of_blocks("flux1", tiny_base("flux1"))
    assert whole.frozen - away.frozen == sum(weight.nbytes for block in blocks for weight in block)
    assert away.copied == 2 * (whole.frozen - away.frozen)
    assert (away.process, whole.copied) == (0, 0)
    assert away.loading < whole.loading
    on_cpu = estimate(base, replace(SHORT, offload=True), "fp32", CPU)
    assert on_cpu.frozen == whole.frozen


def test_copying_is_timed() -> None:
    assert bytes_a_second(CPU) > 1e8
    needs = plan.Estimate(0, 0, 0, 0, 0, 0, flops=100, copied=int(2 * bytes_a_second(CPU)))
    assert plan._seconds(needs, 100.0, CPU) == pytest.approx(3.0, rel=0.5)


def test_it_is_the_ladder_s_last_rung_on_a_gpu_alone() -> None:
    plain = replace(SHORT, gradient_checkpointing=True)
    for device in ("cpu", "mps"):
        assert all("fit.offload" not in rung.changes for rung in ladder(plain, "bf16", device=device))
    last = list(ladder(plain, "bf16", "int8", "cuda"))[-1]
    assert last.words == "blocks in main memory"
    assert last.changes["fit.offload"] is True
    assert last.changes["base.quantize"] == "none"
    assert "base.quantize" not in list(ladder(plain, "bf16", "none", "cuda"))[-1].changes
    for other in (replace(plain, offload=True), replace(plain, adapter="dora")):
        assert "fit.offload" not in list(ladder(other, "bf16", "none", "cuda"))[-1].changes


def test_the_plan_says_that_a_cpu_gains_nothing(cli: Command, tiny_base: Callable[[str], Path]) -> None:
    said = ["--recipe", "sdxl", "--set", f"base.path={tiny_base('sdxl')}", "--set", "base.size_px=128"]
    done = cli("plan", *said, "--set", "fit.offload=true")
    assert done.returncode == 0, done.stderr
    assert "fit.offload gains nothing on the cpu" in done.stderr
    assert "fit.offload gains" not in cli("plan", *said).stderr


def test_what_it_does_not_go_with_is_refused(cli: Command) -> None:
    said = ["fit.offload=true", "fit.adapter=dora", "base.quantize=nf4", "export.kohya=false"]
    done = cli("recipe", "check", "portrait-tiny", *[part for text in said for part in ("--set", text)])
    assert done.returncode == 2
    assert "fit.offload: a DoRA" in done.stderr
    assert "fit.offload: the layers of base.quantize" in done.stderr
