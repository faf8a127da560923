"""The adapter on the denoiser: starts silent, repeats itself, and its file means the same to every loader."""

from pathlib import Path

import pytest
import torch

from trainer.adapter import write_adapter
from trainer.bases.base import Base, get_base
from trainer.errors import IntegrityError
from trainer.fit.lora import Shape, add_lora, lora_tensors


@pytest.fixture
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


def adapted(base: Base, rank: int = 4, alpha: float = 4.0, kind: str = "attention+conv", seed: int = 0) -> Base:
    add_lora(base.denoiser, Shape(rank, alpha, base.lora_targets(kind)), seed)
    return base


def randomize(base: Base) -> None:
    """Give B values, as a fit would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in base.denoiser.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def answer(base: Base) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn((1, 4, 16, 16), generator=generator)
    with torch.no_grad():
        return base.predict(noisy, torch.tensor([500]), base.encode_texts(["photo of ohwx person"]))


def test_a_new_adapter_changes_nothing_and_only_it_is_trained(base: Base) -> None:
    before = answer(base)
    parameters = add_lora(base.denoiser, Shape(4, 8.0, base.lora_targets("attention+conv")), 0)
    torch.testing.assert_close(answer(base), before, rtol=0, atol=0)
    trained = [name for name, parameter in base.denoiser.named_parameters() if parameter.requires_grad]
    assert len(trained) == len(parameters) > 0
    assert all("lora_" in name for name in trained)


def test_attention_alone_is_less_than_attention_and_convolutions(base: Base) -> None:
    less = lora_tensors(adapted(base, kind="attention").denoiser)
    more = lora_tensors(adapted(base.fresh()).denoiser)
    assert set(less) < set(more)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in less} == {"to_q", "to_k", "to_v", "0"}
    assert any(".conv1." in name for name in more)
    assert any(".ff.net.2." in name for name in more)


def test_the_start_follows_the_seed_and_leaves_the_global_generator_alone(base: Base) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = lora_tensors(adapted(base, seed=3).denoiser)
    assert torch.equal(torch.get_rng_state(), state)
    again = lora_tensors(adapted(base.fresh(), seed=3).denoiser)
    other = lora_tensors(adapted(base.fresh(), seed=4).denoiser)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_a_is_gaussian_of_variance_one_over_rank_squared_and_b_is_zero(base: Base) -> None:
    tensors = lora_tensors(adapted(base, rank=8).denoiser)
    a = torch.cat([tensor.flatten() for name, tensor in tensors.items() if "lora_A" in name])
    assert float(a.std()) == pytest.approx(1 / 8, rel=0.05)
    assert all(not tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (4, 8.0), (4, 1.0), (2, 3.0)])
def test_the_file_loads_back_to_the_fitted_denoiser_whatever_alpha(
    rank: int, alpha: float, base: Base, tmp_path: Path
) -> None:
    plain = answer(base)
    adapted(base, rank, alpha)
    randomize(base)
    fitted = answer(base)
    assert float((fitted - plain).abs().max()) > 0.01
    write_adapter(tmp_path / "a.safetensors", lora_tensors(base.denoiser), {"format": "pt"})
    loaded = base.fresh()
    loaded.use_adapter(tmp_path / "a.safetensors")
    torch.testing.assert_close(answer(loaded), fitted, rtol=1e-4, atol=1e-5)
    loaded.use_adapter(None)
    torch.testing.assert_close(answer(loaded), plain, rtol=1e-4, atol=1e-5)


def test_folding_scales_b_alone(base: Base) -> None:
    adapted(base, rank=4, alpha=2.0)
    randomize(base)
    own = {name.replace(".default.", "."): p for name, p in base.denoiser.named_parameters() if p.requires_grad}
    tensors = lora_tensors(base.denoiser)
    assert {name.removeprefix("unet.") for name in tensors} == set(own)
    for name, tensor in own.items():
        scale = 0.5 if "lora_B" in name else 1.0
        torch.testing.assert_close(tensors[f"unet.{name}"], scale * tensor.detach(), rtol=0, atol=0)


def test_an_adapter_of_another_shape_or_with_a_stray_key_is_refused(base: Base, tmp_path: Path) -> None:
    tensors = lora_tensors(adapted(base.fresh()).denoiser)
    wide = {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}
    stray = tensors | {
        "unet.nowhere.to_q.lora_A.weight": torch.ones(4, 32),
        "unet.nowhere.to_q.lora_B.weight": torch.ones(32, 4),
    }
    for bad in (wide, stray):
        write_adapter(tmp_path / "bad.safetensors", bad, {"format": "pt"})
        with pytest.raises(IntegrityError, match=r"bad\.safetensors"):
            base.use_adapter(tmp_path / "bad.safetensors")
