"""DoRA files: their lengths go between the layouts without a changed bit, load, merge and are never made up."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from safetensors.torch import load_file

from trainer.adapter import read_adapter, tensors_sha256, write_adapter
from trainer.bases.base import get_base
from trainer.bases.loading import load_adapter
from trainer.errors import IntegrityError
from trainer.layouts.layer import Layer, Tensors, grown
from trainer.layouts.layers import canonical, diffusers_reads_kohya, layout_of, read_layers, to_diffusers, to_kohya
from trainer.layouts.lengths import lengths_name
from trainer.layouts.settings import KEY

Family = Callable[[str], tuple[Any, Tensors]]
FILE = Path("a.safetensors")
FAMILIES = ("sd15", "sdxl", "sd3", "flux", "flux2", "qwen-image", "z-image")


@pytest.fixture
def dora(family: Family) -> Family:
    """A pipeline by name and an adapter that stretches each row of its layers by 0.5 to 1.5."""

    def build(name: str) -> tuple[Any, Tensors]:
        pipeline, tensors = family(name)
        generator, lengths = torch.Generator().manual_seed(1), {}
        for part, model in pipeline.components.items():
            for module_name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
                stem = canonical(f"{part}.{module_name}")
                if f"{stem}.lora_A.weight" in tensors:
                    rows = module.weight.detach().flatten(1).norm(dim=1)
                    rows = rows * (0.5 + torch.rand(len(rows), generator=generator))
                    shape = (1, -1, 1, 1) if module.weight.ndim == 4 else (-1,)
                    lengths[lengths_name(stem)] = rows.reshape(shape)
        return pipeline, tensors | lengths

    return build


def kohya(tensors: Tensors) -> Tensors:
    return to_kohya(read_layers(FILE, tensors, {}))


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_changes_no_bit(name: str, dora: Family) -> None:
    _, tensors = dora(name)
    assert len(tensors) % 3 == 0
    renamed = kohya(tensors)
    assert layout_of(renamed) == "kohya"
    assert any(key.endswith(".dora_scale") for key in renamed)
    back, extra = to_diffusers(read_layers(FILE, renamed, {}))
    assert extra == {}
    assert tensors_sha256(back) == tensors_sha256(tensors)
    assert tensors_sha256(kohya(back)) == tensors_sha256(renamed)


def test_the_shapes_are_those_of_peft_and_of_lycoris() -> None:
    stem = "unet.down_blocks.0.resnets.0.conv1"
    tensors = {
        f"{stem}.lora_A.weight": torch.ones(2, 8, 3, 3),
        f"{stem}.lora_B.weight": torch.ones(6, 2, 1, 1),
        f"{stem}.lora_magnitude_vector": torch.arange(6.0).reshape(1, 6, 1, 1),
    }
    renamed = kohya(tensors)
    lengths = renamed["lora_unet_down_blocks_0_resnets_0_conv1.dora_scale"]
    assert lengths.shape == (6, 1, 1, 1)
    assert lengths.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_text_encoders_lengths_count_under_either_name(dora: Family, tmp_path: Path) -> None:
    pipeline, tensors = dora("sdxl")
    old = {name.replace("_vector.weight", "_vector"): tensor for name, tensor in tensors.items()}
    assert old.keys() != tensors.keys()
    assert tensors_sha256(to_diffusers(read_layers(FILE, old, {}))[0]) == tensors_sha256(tensors)
    write_adapter(tmp_path / "a.safetensors", old, {})
    load_adapter(pipeline, tmp_path / "a.safetensors", "one", "stock")  # checks the lengths
    pipeline.unload_lora_weights()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pipeline_takes_both_layouts_whole(name: str, dora: Family, tmp_path: Path) -> None:
    pipeline, tensors = dora(name)
    write_adapter(tmp_path / "plain.safetensors", tensors, {})
    write_adapter(tmp_path / "kohya.safetensors", kohya(tensors), {})
    found = []
    for file in ("plain", "kohya"):
        pipeline.unload_lora_weights()
        load_adapter(pipeline, tmp_path / f"{file}.safetensors", "one", "stock")
        found.append(
            {
                canonical(f"{part}.{module_name}"): module.lora_magnitude_vector["one"].weight.detach().clone()
                for part, model in pipeline.components.items()
                if isinstance(model, torch.nn.Module)
                for module_name, module in model.named_modules()
                if "one" in getattr(module, "lora_A", ())
            }
        )
    pipeline.unload_lora_weights()
    assert len(found[0]) == len(tensors) // 3
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert all(torch.equal(found[0][key], tensors[lengths_name(key)]) for key in found[0])


def test_a_base_makes_the_same_pictures_of_both_layouts(dora: Family, random_base: Path, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in dora("sd15")[1].items() if name.startswith("unet.")}
    lora = {name: tensor for name, tensor in tensors.items() if "magnitude" not in name}
    base, made = get_base("portrait-tiny", str(random_base)), []
    for weights in (tensors, kohya(tensors), lora):
        write_adapter(tmp_path / "a.safetensors", weights, {})
        base.use_adapter(tmp_path / "a.safetensors")
        base.sample(["ohwx"], [0], 2, 3.0, 1, lambda _, picture: made.append(picture))
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])  # the lengths count


def test_stock_diffusers_alone_would_drop_kohyas_lengths(dora: Family, tmp_path: Path) -> None:
    pipeline, tensors = dora("sd15")
    write_adapter(tmp_path / "kohya.safetensors", kohya(tensors), {})
    assert not diffusers_reads_kohya(read_layers(FILE, tensors, {}))
    read, _ = pipeline.lora_state_dict(str(tmp_path), weight_name="kohya.safetensors")
    assert not any("magnitude" in key or "dora" in key for key in read)


def test_an_alpha_that_is_not_the_rank_comes_along(dora: Family, tmp_path: Path) -> None:
    pipeline, tensors = dora("sd15")
    renamed = {name: torch.tensor(2.0) if name.endswith("alpha") else t for name, t in kohya(tensors).items()}
    back, extra = to_diffusers(read_layers(FILE, renamed, {}))
    assert json.loads(extra[KEY])["unet.use_dora"] is True
    assert tensors_sha256(to_kohya(read_layers(FILE, back, extra))) == tensors_sha256(renamed)
    write_adapter(tmp_path / "plain.safetensors", back, extra)
    load_adapter(pipeline, tmp_path / "plain.safetensors", "one", "stock")  # checks strength and lengths
    pipeline.unload_lora_weights()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_merged_dora_makes_the_pictures_of_the_loaded_one(
    scale: float, dora: Family, random_base: Path, cli: Command, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    def picture(folder: Path, adapter: Path | None = None) -> Any:
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        if adapter:
            pipe.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
            pipe.set_adapters(["default_0"], scale)
        seed = torch.Generator().manual_seed(0)
        made = pipe("ohwx", num_inference_steps=2, height=128, width=128, generator=seed, output_type="np")
        return (made.images[0] * 255).round()

    file, source = tmp_path / "a.safetensors", tmp_path / "kohya.safetensors"
    write_adapter(file, dora("sd15")[1], {})
    write_adapter(source, kohya(dora("sd15")[1]), {})
    done = cli("merge", source, "--base", random_base, "--out", tmp_path / "merged", "--scale", str(scale), "--json")
    assert done.returncode == 0, done.stderr
    assert np.abs(picture(tmp_path / "merged") - picture(random_base, file)).max() <= 1
    assert np.abs(picture(tmp_path / "merged") - picture(random_base)).max() > 20


def test_convert_and_inspect_say_that_it_is_a_dora(dora: Family, cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_adapter(file, dora("sdxl")[1], {"title": "x"})
    said = json.loads(cli("convert", file, "--layout", "kohya", "--json").stdout)["result"]
    assert (said["kind"], said["rounding"], said["error"]) == ("dora", 0, None)
    shown = json.loads(cli("inspect", said["out"], "--json").stdout)["result"]
    assert (shown["kind"], shown["layout"]) == ("dora", "kohya")
    assert shown["metadata"]["ss_network_module"] == "lycoris.kohya"
    back = json.loads(cli("convert", said["out"], "--layout", "diffusers", "--json").stdout)["result"]
    assert tensors_sha256(load_file(back["out"])) == tensors_sha256(load_file(file))
    small = json.loads(cli("convert", file, "--dtype", "fp16", "--rank", "2", "--json").stdout)["result"]
    tensors = load_file(small["out"])
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    lengths = {name: tensor for name, tensor in load_file(file).items() if "magnitude" in name}
    assert all(torch.equal(tensors[name], tensor.half()) for name, tensor in lengths.items())
    assert 0.1 < small["error"]["mean"] <= small["error"]["max"] < 1


COLUMNS = {
    "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4),
    "lora_unet_conv_in.lora_up.weight": torch.ones(6, 2),
    "lora_unet_conv_in.alpha": torch.tensor(2.0),
    "lora_unet_conv_in.dora_scale": torch.arange(1.0, 5.0).reshape(1, 4),
}


def test_lengths_of_columns_stay_in_kohyas_layout(tmp_path: Path) -> None:
    layers = read_layers(FILE, COLUMNS, {})
    assert tensors_sha256(to_kohya(layers)) == tensors_sha256(COLUMNS)
    with pytest.raises(IntegrityError, match=r"no name for lengths of columns, which unet\.conv_in has"):
        to_diffusers(layers)
    whole = grown(layers["unet.conv_in"], torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(whole.norm(dim=0), torch.arange(1.0, 5.0, dtype=torch.float64))


def test_rows_are_stretched_to_their_lengths_at_every_scale() -> None:
    layer = Layer(torch.ones(2, 4, 3, 3), torch.ones(6, 2, 1, 1), 2.0, torch.arange(6.0).reshape(6, 1, 1, 1))
    for scale in (0.0, 0.5, 1.0):
        whole = grown(layer, torch.ones(6, 4, 3, 3), scale)
        assert torch.allclose(whole.flatten(1).norm(dim=1), torch.arange(6.0, dtype=torch.float64))
    assert not grown(layer, torch.zeros(6, 4, 3, 3), 0.0).any()  # nothing has no direction


def test_a_dora_of_some_layers_is_refused_where_peft_would_make_up_the_rest(dora: Family, tmp_path: Path) -> None:
    pipeline, tensors = dora("sd15")
    del tensors["unet.conv_in.lora_magnitude_vector"]
    words = r"a DoRA of every layer or of none: 1 of the \d+ layers of unet have no lengths, as unet\.conv_in"
    with pytest.raises(IntegrityError, match=words):
        to_diffusers(read_layers(FILE, kohya(tensors), {}))
    write_adapter(tmp_path / "a.safetensors", tensors, {})
    with pytest.raises(IntegrityError, match=r"a\.safetensors: .*" + words):
        load_adapter(pipeline, tmp_path / "a.safetensors", "one", "stock")


def test_a_fused_projection_is_a_dora_as_a_whole_or_not(dora: Family) -> None:
    tensors = {name: t for name, t in dora("flux")[1].items() if ".attn.to_k." not in name}
    with pytest.raises(IntegrityError, match="not all of its neighbours"):
        kohya(tensors)


@pytest.mark.parametrize("said", [True, False])
def test_settings_and_tensors_must_agree_on_what_it_is(said: bool, dora: Family) -> None:
    tensors = {n: t for n, t in dora("sd15")[1].items() if not said or "magnitude" not in n}
    settings = {KEY: json.dumps({"unet.r": 4, "unet.lora_alpha": 4, "unet.use_dora": said})}
    with pytest.raises(IntegrityError, match=f"asks for unet.use_dora={said}"):
        read_layers(FILE, tensors, settings)


@pytest.mark.parametrize("shape", [(5,), (6, 2), (1, 6), (6, 1, 1, 1), ()])
def test_lengths_that_do_not_fit_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = {name: t for name, t in COLUMNS.items() if "dora" not in name}
    tensors["lora_unet_conv_in.dora_scale"] = torch.ones(shape)
    with pytest.raises(IntegrityError, match=re.escape("a.safetensors: lora_unet_conv_in holds lengths of")):
        read_layers(FILE, tensors, {})
    write_adapter(tmp_path / "a.safetensors", tensors, {})
    assert read_adapter(tmp_path / "a.safetensors")  # whole safetensors all the same
