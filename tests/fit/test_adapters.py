"""Every kind of adapter on the embedded base: starts silent, and its file means the same to a stock pipeline."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.adapter import describe, read_adapter, write_adapter
from trainer.bases.base import Base, get_base
from trainer.errors import IntegrityError, RecipeError
from trainer.fit.lora import Shape, add_lora, lora_layers, lora_start, lora_tensors
from trainer.fit.warm_start import warm_start
from trainer.layouts.layers import read_layers, to_kohya

Tensors = dict[str, torch.Tensor]
Layout = Callable[[Tensors], Tensors]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
SHAPES = {
    "lora": Shape(4, 8.0, [*ATTENTION, "conv1", "proj_in"]),
    "rslora": Shape(4, 6.0, [*ATTENTION, "conv1"], kind="rslora"),
    "dora": Shape(4, 8.0, [*ATTENTION, "conv1"], kind="dora"),
    "pissa": Shape(4, 8.0, ["attn2.to_q", "attn2.to_v"], init="pissa"),
    "rslora from pissa": Shape(4, 8.0, ["attn1.to_k"], kind="rslora", init="pissa"),
    "olora": Shape(4, 4.0, ["attn2.to_q", "attn2.to_v"], init="olora"),
    "ranks": Shape(4, 8.0, [*ATTENTION, "conv1"], rank_pattern={"mid_block.*": 2, "attn2.to_k": 6, "conv1": 3}),
    "rslora of ranks": Shape(4, 8.0, ATTENTION, kind="rslora", rank_pattern={"attn1.to_*": 9}),
    "listed": Shape(2, 2.0, ["attn2.to_v"]),
}


@pytest.fixture(scope="module")
def stock() -> Base:
    """The embedded base, which reads adapters through diffusers' own loader alone."""
    return get_base("portrait-tiny")


def answer(base: Base) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    config = base.denoiser.config
    noisy = torch.randn((2, config.in_channels, config.sample_size, config.sample_size), generator=generator)
    with torch.no_grad():
        texts = base.encode_texts(["photo of ohwx person", ""])
        return base.predict(noisy, torch.tensor([500, 900]), texts)


def move(base: Base, amount: float = 0.02) -> None:
    """Change every trained number, as a fit would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in base.denoiser.parameters():
            if parameter.requires_grad:
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", SHAPES)
def test_its_file_makes_a_stock_pipeline_say_what_the_fitted_denoiser_says(
    name: str, stock: Base, tmp_path: Path
) -> None:
    stock.use_adapter(None)
    shape, fitted, silent = SHAPES[name], stock.fresh(), answer(stock)
    add_lora(fitted.denoiser, shape, 0)
    start = lora_start(fitted.denoiser, shape.init)
    torch.testing.assert_close(answer(fitted), silent, rtol=1e-3, atol=1e-4)
    move(fitted)
    wanted = answer(fitted)
    assert float((wanted - silent).abs().max()) > 0.02

    file = tmp_path / "a.safetensors"
    write_adapter(file, lora_tensors(fitted.denoiser, start), {"format": "pt"})
    stock.use_adapter(file)
    torch.testing.assert_close(answer(stock), wanted, rtol=1e-3, atol=2e-4)
    assert shape.init == "gaussian" or describe(file)["ranks"][0] == 2 * shape.rank
    if shape.kind == "dora" or shape.rank_pattern:
        return  # the recipe refuses these for kohya's layout
    kohya = tmp_path / "kohya.safetensors"
    write_adapter(kohya, to_kohya(read_layers(file, *read_adapter(file))), {"format": "pt"})
    stock.use_adapter(kohya)
    torch.testing.assert_close(answer(stock), wanted, rtol=1e-3, atol=2e-4)


def test_ranks_are_those_of_the_first_pattern_that_matches(random_base: Path) -> None:
    base = get_base("portrait-tiny", str(random_base))
    add_lora(base.denoiser, Shape(4, 8.0, ATTENTION, rank_pattern={"mid_block.*": 2, "to_k": 6, "attn1.to_k": 7}), 0)
    for name, layer in lora_layers(base.denoiser).items():
        wanted = 2 if name.startswith("mid_block") else 6 if name.endswith("to_k") else 4
        assert layer.lora_A["default"].weight.shape[0] == wanted


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Shape(4, 4.0, ["to_q", "to_z"]), "fit.targets: .*to_z"),
        (Shape(4, 4.0, ["to_q", "attentions"]), "fit.targets: .*attentions"),
        (Shape(4, 4.0, ["to_q"], rank_pattern={"to_k": 2}), "fit.rank_pattern: .*to_k"),
        (Shape(4, 4.0, ["to_q", "conv1"], init="pissa"), "fit.init: pissa is for linear layers.*conv1"),
        (Shape(64, 4.0, ["to_q"], init="pissa"), "fit.init: pissa needs a rank of at most 32"),
        (Shape(4, 4.0, ["to_q"], init="olora", rank_pattern={"to_q": 40}), "fit.init: olora .* not 40"),
    ],
)
def test_what_the_denoiser_cannot_carry_is_refused(shape: Shape, said: str, random_base: Path) -> None:
    base = get_base("portrait-tiny", str(random_base))
    with pytest.raises(RecipeError, match=said):
        add_lora(base.denoiser, shape, 0)
    assert not lora_layers(base.denoiser)


def same(tensors: Tensors) -> Tensors:
    return tensors


def as_peft(tensors: Tensors) -> Tensors:
    return {f"base_model.model.{name.removeprefix('unet.')}": tensor for name, tensor in tensors.items()}


def as_kohya_of_half_alpha(tensors: Tensors) -> Tensors:
    renamed = to_kohya(read_layers(Path("tensors"), tensors, {}))
    return {
        name: tensor / 2 if name.endswith(".alpha") else tensor * 2 if "lora_up" in name else tensor
        for name, tensor in renamed.items()
    }


@pytest.mark.parametrize("layout", [same, as_peft, as_kohya_of_half_alpha])
@pytest.mark.parametrize("shape", [Shape(4, 8.0, ATTENTION), Shape(6, 3.0, [*ATTENTION, "conv1"], kind="rslora")])
def test_a_warm_start_says_what_its_file_says(layout: Layout, shape: Shape, random_base: Path, tmp_path: Path) -> None:
    wanted, file = _made(random_base, SHAPES["listed"], layout, tmp_path)
    base = get_base("portrait-tiny", str(random_base))
    add_lora(base.denoiser, shape, 5)
    warm_start({"unet": base.denoiser}, file)
    torch.testing.assert_close(answer(base), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_dora_starts_from_a_dora_or_a_lora(kind: str, random_base: Path, tmp_path: Path) -> None:
    wanted, file = _made(random_base, Shape(2, 2.0, ["to_q", "conv1"], kind=kind), same, tmp_path)
    base = get_base("portrait-tiny", str(random_base))
    add_lora(base.denoiser, Shape(4, 8.0, ["to_q", "conv1"], kind="dora"), 5)
    warm_start({"unet": base.denoiser}, file)
    torch.testing.assert_close(answer(base), wanted, rtol=1e-3, atol=1e-4)


def _made(random_base: Path, shape: Shape, layout: Layout, folder: Path) -> tuple[torch.Tensor, Path]:
    """What a moved adapter says, and its file."""
    other = get_base("portrait-tiny", str(random_base))
    add_lora(other.denoiser, shape, 0)
    move(other, 0.1)
    write_adapter(folder / "warm.safetensors", layout(lora_tensors(other.denoiser)), {"format": "pt"})
    return answer(other), folder / "warm.safetensors"


@pytest.mark.parametrize(
    ("made", "asked", "said"),
    [
        (Shape(8, 8.0, ["to_q"]), Shape(4, 4.0, ["to_q"]), "its rank is 8, above 4: raise fit.rank"),
        (Shape(2, 2.0, ["to_q", "to_k"]), Shape(4, 4.0, ["to_q"]), "belong to no adapted layer"),
        (Shape(2, 2.0, ["to_q"], kind="dora"), Shape(4, 4.0, ["to_q"]), "set fit.adapter=dora"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused(
    made: Shape, asked: Shape, said: str, random_base: Path, tmp_path: Path
) -> None:
    _, file = _made(random_base, made, same, tmp_path)
    base = get_base("portrait-tiny", str(random_base))
    add_lora(base.denoiser, asked, 0)
    before = lora_tensors(base.denoiser)
    with pytest.raises(RecipeError, match=said):
        warm_start({"unet": base.denoiser}, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lora_tensors(base.denoiser).items())


def test_a_warm_start_of_another_base_or_of_no_adapter_is_refused(random_base: Path, tmp_path: Path) -> None:
    base = get_base("portrait-tiny", str(random_base))
    add_lora(base.denoiser, Shape(4, 4.0, ["to_q"]), 0)
    file = tmp_path / "other.safetensors"
    wide = {name: torch.cat([tensor, tensor], 1) for name, tensor in lora_tensors(base.denoiser).items()}
    half = {name: tensor for name, tensor in lora_tensors(base.denoiser).items() if "lora_A" in name}
    for tensors, said in ((wide, "another base"), (half, "one half"), ({}, "holds no LoRA")):
        write_adapter(file, tensors, {"format": "pt"})
        with pytest.raises(RecipeError, match=said):
            warm_start({"unet": base.denoiser}, file)
    file.write_bytes(b"no adapter")
    with pytest.raises(IntegrityError, match="not a readable adapter"):
        warm_start({"unet": base.denoiser}, file)
