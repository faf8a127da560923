"""Text encoders that learn: read live as they were cached, trained, kept, and taken whole by every stock pipeline."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, hashes, interrupted_at, write_samples
from test_resume import SETTINGS
from tiny_bases import load

from trainer.adapter import read_adapter
from trainer.bases.base import FAMILIES, Base, family_of, get_base
from trainer.console import Console
from trainer.errors import UsageError
from trainer.fingerprints import YOUNGER, decides_fit
from trainer.fit import loop, stage
from trainer.fit.adapted import adapt
from trainer.fit.checkpoint import find_checkpoints
from trainer.fit.optimizer import build_optimizer, set_rate
from trainer.fit.plan import estimate
from trainer.fit.prior import build_prior
from trainer.recipe import READ_BY_CLIP
from trainer.sections import FitSection

TUNED = ("sd15", "sdxl", "sd3", "flux1")
WORDS = ["photo of ohwx person", "", "photo of person, smiling"]
SHORT = replace(SETTINGS, steps=3, checkpoint_every=3, text_encoder_rate=1.0, learning_rate=1e-2, warmup_steps=0)


@pytest.fixture(params=TUNED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


def noisy_of(base: Base) -> torch.Tensor:
    channels = base.encode_images([np.zeros((128, 128, 3), np.uint8)]).shape[1:]
    return torch.randn((len(WORDS), *channels), generator=torch.Generator().manual_seed(0))


LEVELS = torch.tensor([200, 500, 900])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_read_anew_say_what_was_cached(precision: str, name: str, tiny_base: Callable[[str], Path]) -> None:
    base = load(name, tiny_base(name), precision)
    cached = base.encode_texts(WORDS)
    assert cached.tokens is None
    base.tune_texts()
    kept = base.encode_texts(WORDS)
    assert kept.tokens is not None
    assert kept.tokens.shape[:2] == (len(WORDS), len(base.text_encoders))
    again = family_of(name).tunable.encode(base.text_encoders, kept)
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(again.text, cached.text, **near)
    assert (again.pooled is None) == (cached.pooled is None)
    if cached.pooled is not None:
        torch.testing.assert_close(again.pooled, cached.pooled, **near)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_fit_s_file_makes_the_stock_pipeline_say_and_draw_the_same(
    kind: str, name: str, tiny_base: Callable[[str], Path], samples: Path, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    fitted = load(name, tiny_base(name))
    noisy = noisy_of(fitted)
    stage.fit(samples, fitted, replace(SHORT, adapter=kind), tmp_path, Console(quiet=True))
    file = find_checkpoints(tmp_path)[-1].adapter
    tensors, _ = read_adapter(file)
    for encoder in fitted.text_encoders:
        ups = [tensor for key, tensor in tensors.items() if key.startswith(f"{encoder}.") and "lora_B" in key]
        assert len(ups) == 2 * 6  # layers, and the linear ones of each
        assert sum(bool(up.any()) for up in ups) >= 6  # of some encoders nobody reads the last layer
    loaded = load(name, tiny_base(name))
    silent = loaded.encode_texts(WORDS)
    loaded.use_adapter(file)
    said = loaded.encode_texts(WORDS)
    with torch.no_grad():
        tuned = load(name, tiny_base(name))
        tuned.tune_texts()
        live = fitted.predict(noisy, LEVELS, tuned.encode_texts(WORDS))
        torch.testing.assert_close(loaded.predict(noisy, LEVELS, said), live, rtol=1e-3, atol=2e-4)
        assert float((loaded.predict(noisy, LEVELS, silent) - live).abs().max()) > 1e-3
    stock = DiffusionPipeline.from_pretrained(tiny_base(name))
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(file.parent, weight_name=file.name)
    options = {"num_inference_steps": 2, "height": 128, "width": 128, "output_type": "np", "guidance_scale": 3.0}
    drawn = stock(prompt=WORDS[0], generator=torch.Generator().manual_seed(7), **options).images[0]
    made: dict[int, Any] = {}
    loaded.sample(WORDS[:1], [7], 2, 3.0, 1, made.__setitem__)
    assert np.abs(made[0].astype(int) - (drawn * 255).round().astype(int)).max() <= 1


def tuned(base: Path) -> Base:
    return get_base("portrait-tiny", str(base))


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.1, "ema_decay": 0.9, "gradient_checkpointing": True}])
def test_a_stopped_fit_goes_on_as_if_nothing_had_happened(
    changes: dict[str, Any], samples: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)
    settings = replace(SETTINGS, steps=20, checkpoint_every=10, text_encoder_rate=0.5, **changes)
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    stage.fit(samples, tuned(random_base), settings, tmp_path / "whole", Console(quiet=True))
    for stop in (5, 13):
        with pytest.raises(KeyboardInterrupt):
            stage.fit(samples, tuned(random_base), settings, tmp_path / "stopped", interrupted_at(stop))
    stage.fit(samples, tuned(random_base), settings, tmp_path / "stopped", Console(quiet=True))
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")


def test_checkpointing_changes_no_bit(samples: Path, random_base: Path, tmp_path: Path) -> None:
    for again in (False, True):
        folder = tmp_path / str(again)
        folder.mkdir()
        stage.fit(
            samples, tuned(random_base), replace(SHORT, gradient_checkpointing=again), folder, Console(quiet=True)
        )
    assert hashes(tmp_path / "True") == hashes(tmp_path / "False")


def test_the_file_of_a_fit_is_a_start_for_the_next(samples: Path, random_base: Path, tmp_path: Path) -> None:
    for folder in ("first", "next"):
        (tmp_path / folder).mkdir()
    stage.fit(samples, tuned(random_base), SHORT, tmp_path / "first", Console(quiet=True))
    file = find_checkpoints(tmp_path / "first")[-1].adapter
    on = replace(SHORT, warm_start=str(file), learning_rate=1e-12)
    stage.fit(samples, tuned(random_base), on, tmp_path / "next", Console(quiet=True))
    wanted, _ = read_adapter(file)
    found, _ = read_adapter(find_checkpoints(tmp_path / "next")[-1].adapter)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_class_is_held_through_the_encoder_that_learns(random_base: Path, samples: Path) -> None:
    """An answer of the base says how its text should be read, so its error reaches the encoder's adapter."""
    from trainer.fit.cache import build_cache, read_samples
    from trainer.fit.objective import diffusion_loss

    base = tuned(random_base)
    base.tune_texts()
    found = read_samples(samples)
    cache = build_cache(found, [[sample.caption] for sample in found], base, False, 1.0, lambda: None)
    (prior,) = build_prior(base, cache, [["photo of person"]] * 2, 0, 8, 0, lambda: None)
    base.release()
    given = prior.rows(torch.arange(8))
    with torch.no_grad():
        assert float(diffusion_loss(base, given, "uniform", None).max()) < 1e-6
    weights = adapt(base, SHORT)
    ups = {key: weight for key, weight in weights.items() if key.startswith("text_encoder.") and ".lora_B." in key}
    with torch.no_grad():
        for up in ups.values():
            up.normal_(0, 0.1)
    loss = diffusion_loss(base, given, "uniform", None).mean()
    assert float(loss.detach()) > 1e-6
    loss.backward()
    assert all(up.grad is not None and bool(up.grad.any()) for up in ups.values())


def test_each_part_has_its_own_rate() -> None:
    names = ["unet.lora_A.w", "unet.lora_B.w", "text_encoder.q.lora_A.w", "text_encoder.q.lora_B.w"]
    weights = {name: torch.zeros(1, requires_grad=True) for name in names}
    optimizer = build_optimizer("adamw", weights, 1.0, 0.0, 16.0, 0.05)
    set_rate(optimizer, 0.1)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert [rates[id(weights[name])] for name in names] == pytest.approx([0.1, 1.6, 0.005, 0.08])
    assert len(build_optimizer("adamw", weights, 1.0, 0.0, None, 1.0).param_groups) == 1


def test_the_plan_counts_the_encoders_to_the_byte(name: str, tiny_base: Callable[[str], Path]) -> None:
    base = load(name, tiny_base(name))
    base.tune_texts()
    described = {"name": name, "path": str(tiny_base(name)), "size_px": 128}
    found = estimate(described, SHORT, "fp32", torch.device("cpu"))
    parts = [base.denoiser, *base.text_encoders.values()]
    held = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    assert found.frozen == sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert found.adapter == 12 * sum(weight.numel() for weight in adapt(base, SHORT).values())
    assert found.flops > 0


def test_language_models_are_refused_at_the_door_and_by_the_base(
    cli: Command, tiny_base: Callable[[str], Path], tmp_path: Path
) -> None:
    assert {name for name in FAMILIES if family_of(name).tunable} == READ_BY_CLIP
    said = ["--set", "base.name=qwen-image", "--set", "base.path=x", "--set", "fit.text_encoder_rate=1"]
    done = cli("recipe", "check", "portrait-tiny", *said)
    assert done.returncode == 2
    assert "fit.text_encoder_rate: qwen-image reads texts with a language model" in done.stderr
    said = ["fit.optimizer=prodigy", "fit.learning_rate=1", "fit.text_encoder_rate=0.5"]
    done = cli("recipe", "check", "portrait-tiny", *[part for text in said for part in ("--set", text)])
    assert "fit.text_encoder_rate: Prodigy" in done.stderr
    with pytest.raises(UsageError, match="language model"):
        load("z-image", tiny_base("z-image")).tune_texts()


def test_a_fit_from_before_the_key_still_holds() -> None:
    plain, tuned = decides_fit(FitSection()), decides_fit(FitSection(text_encoder_rate=0.5))
    assert "text_encoder_rate" not in plain
    assert tuned == plain | {"text_encoder_rate": 0.5}
    fields = set(FitSection.model_fields)
    assert plain.keys() | ({*YOUNGER, "trackers"} & fields) == fields


def test_a_run_scores_and_exports_it(
    photos: Path, fast: list[str], cli: Command, tmp_path: Path, weights: Path
) -> None:
    home = tmp_path / "subjects/zelda"
    home.mkdir(parents=True)
    shutil.move(photos, home / "photos")
    done = cli("train", "zelda", "--json", *fast, "--set", "fit.text_encoder_rate=0.5")
    assert done.returncode == 0, done.stderr
    adapter = Path(json.loads(done.stdout)["result"]["adapter"])
    assert any(key.startswith("text_encoder.text_model.") for key in read_adapter(adapter)[0])
    assert any(key.startswith("lora_te_") for key in read_adapter(adapter.with_suffix(".kohya.safetensors"))[0])
    parity = json.loads((adapter.parent / "manifest.json").read_text())["parity"]
    assert len(parity) == 2
    assert max(parity.values()) <= 1
