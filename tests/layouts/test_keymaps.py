"""Names of layers: there and back for every family, and diffusers' own reader takes every key of kohya's layout."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.adapter import tensors_sha256, write_adapter
from trainer.bases.loading import adapted_modules, load_adapter
from trainer.errors import IntegrityError
from trainer.layouts.keymaps import module_of
from trainer.layouts.layer import Layer, Tensors, update_of
from trainer.layouts.layers import diffusers_reads_kohya, layout_of, read_layers, to_diffusers, to_kohya

Family = Callable[[str], tuple[Any, Tensors]]
FILE = Path("a.safetensors")
NEW = ("flux2", "qwen-image", "z-image")
ALL = ("sd15", "sdxl", "sd3", "flux", *NEW)
modules = st.lists(
    st.sampled_from(
        [
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
            "up_blocks.1.resnets.1.conv1",
            "mid_block.attentions.0.proj_in",
        ]
    ),
    min_size=1,
    unique=True,
)


def kohya(tensors: Tensors) -> Tensors:
    return to_kohya(read_layers(FILE, tensors, {}))


def loaded(pipeline: Any, file: Path) -> dict[str, torch.Tensor]:
    """The adapter's parameters in the pipeline, with the scale of each layer, after a load of this file alone."""
    pipeline.unload_lora_weights()
    load_adapter(pipeline, file, "one", "stock")
    found = {}
    for part, model in pipeline.components.items():
        for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
            if "one" in getattr(module, "lora_A", ()):
                for half in ("lora_A", "lora_B"):
                    found[f"{part}.{name}.{half}"] = getattr(module, half)["one"].weight.detach().clone()
                found[f"{part}.{name}.scale"] = torch.tensor(module.scaling["one"])
    return found


def test_the_names_are_those_that_kohya_writes() -> None:
    tensors = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_A.weight": torch.ones(4, 32),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_B.weight": torch.full((32, 4), 2.0),
    }
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    renamed = kohya(tensors)
    assert sorted(renamed) == [f"{stem}.alpha", f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"]
    assert torch.equal(renamed[f"{stem}.lora_down.weight"], torch.ones(4, 32))
    assert torch.equal(renamed[f"{stem}.lora_up.weight"], torch.full((32, 4), 2.0))


@given(modules, st.integers(1, 64), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_alpha_is_the_rank_in_the_tensors_type(names: list[str], rank: int, kind: torch.dtype) -> None:
    tensors = {}
    for name in names:
        shape = (rank, 8, 3, 3) if "conv" in name else (rank, 8)
        tensors[f"unet.{name}.lora_A.weight"] = torch.ones(shape, dtype=kind)
        tensors[f"unet.{name}.lora_B.weight"] = torch.ones((8, rank), dtype=kind)
    renamed = kohya(tensors)
    assert len(renamed) == 3 * len(names)
    alphas = [tensor for name, tensor in renamed.items() if name.endswith(".alpha")]
    assert all(alpha == rank and alpha.dtype == kind and alpha.shape == () for alpha in alphas)


def test_an_alpha_that_the_type_cannot_hold_is_kept_exact() -> None:
    layer = Layer(torch.ones(300, 8, dtype=torch.bfloat16), torch.ones(8, 300, dtype=torch.bfloat16), 300.0)
    (alpha,) = (t for n, t in to_kohya({"unet.conv_in": layer}).items() if n.endswith("alpha"))
    assert alpha.item() == 300


@pytest.mark.parametrize("name", ALL)
def test_there_and_back_changes_no_bit(name: str, family: Family) -> None:
    _, tensors = family(name)
    renamed = kohya(tensors)
    assert layout_of(tensors) == "diffusers"
    assert layout_of(renamed) == "kohya"
    back, extra = to_diffusers(read_layers(FILE, renamed, {}))
    assert extra == {}
    assert tensors_sha256(back) == tensors_sha256(tensors)
    assert tensors_sha256(kohya(back)) == tensors_sha256(renamed)


@pytest.mark.parametrize("name", ["sd15", "sdxl", *NEW])
def test_stock_diffusers_puts_both_layouts_in_the_same_places(name: str, family: Family, tmp_path: Path) -> None:
    pipeline, tensors = family(name)
    write_adapter(tmp_path / "plain.safetensors", tensors, {})
    write_adapter(tmp_path / "kohya.safetensors", kohya(tensors), {})
    plain, other = (loaded(pipeline, tmp_path / f"{kind}.safetensors") for kind in ("plain", "kohya"))
    assert len(plain) == len(tensors) // 2 * 3
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_the_text_encoders_are_named_as_their_family_names_them(family: Family) -> None:
    stems = {name: {key.split("_text_model")[0] for key in kohya(family(name)[1]) if "_te" in key} for name in
             ("sd15", "sdxl", "sd3", "flux")}  # fmt: skip
    both = {"lora_te1", "lora_te2"}
    assert stems == {"sd15": {"lora_te"}, "sdxl": both, "sd3": both, "flux": {"lora_te1"}}


def test_sdxl_without_its_second_encoder_numbers_the_first_all_the_same(family: Family) -> None:
    tensors = {name: t for name, t in family("sdxl")[1].items() if not name.startswith("text_encoder_2.")}
    assert any(key.startswith("lora_te1_") for key in kohya(tensors))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_what_diffusers_cannot_read_goes_in_under_names_that_it_can(name: str, family: Family, tmp_path: Path) -> None:
    pipeline, tensors = family(name)
    write_adapter(tmp_path / "plain.safetensors", tensors, {})
    write_adapter(tmp_path / "kohya.safetensors", kohya(tensors), {})
    plain, other = (loaded(pipeline, tmp_path / f"{kind}.safetensors") for kind in ("plain", "kohya"))
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


@pytest.mark.parametrize("name", ["sd3", "flux", *NEW])
def test_a_transformers_adapter_that_went_through_kohya_loads_whole(name: str, family: Family, tmp_path: Path) -> None:
    pipeline, tensors = family(name)
    back, _ = to_diffusers(read_layers(FILE, kohya(tensors), {}))
    write_adapter(tmp_path / "a.safetensors", back, {})
    assert len(loaded(pipeline, tmp_path / "a.safetensors")) == len(tensors) // 2 * 3
    assert len(adapted_modules(pipeline, "one")) == len(tensors) // 2


@pytest.mark.parametrize("ranks", [2, 3])
def test_diffusers_takes_every_key_of_a_flux_file(ranks: int, tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    tensors: Tensors = {}
    generator = torch.Generator().manual_seed(ranks)
    width = 3072  # diffusers' reader knows no other
    shapes = {"attn.to_q": (width, width), "attn.to_k": (width, width), "attn.to_v": (width, width)}
    double = {"attn.add_q_proj": (width, width), "attn.add_k_proj": (width, width), "attn.add_v_proj": (width, width),
              "attn.to_out.0": (width, width), "attn.to_add_out": (width, width), "ff.net.0.proj": (width, 4 * width),
              "ff.net.2": (4 * width, width), "ff_context.net.0.proj": (width, 4 * width),
              "ff_context.net.2": (4 * width, width), "norm1.linear": (width, 6 * width)}  # fmt: skip
    single = {"proj_mlp": (width, 4 * width), "proj_out": (5 * width, width), "norm.linear": (width, 3 * width)}
    for block, own in (("transformer_blocks.18", double), ("single_transformer_blocks.37", single)):
        for name, (inside, outside) in {**shapes, **own}.items():
            stem = f"transformer.{block}.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(ranks, inside, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(outside, ranks, generator=generator)
    write_adapter(tmp_path / "flux.safetensors", kohya(tensors), {})
    read = FluxPipeline.lora_state_dict(str(tmp_path), weight_name="flux.safetensors")
    assert tensors_sha256(read) == tensors_sha256(tensors)


def test_parts_that_were_not_adapted_come_back_as_none(family: Family) -> None:
    tensors = {name: t for name, t in family("flux")[1].items() if ".to_k." not in name and "proj_mlp" not in name}
    assert tensors_sha256(to_diffusers(read_layers(FILE, kohya(tensors), {}))[0]) == tensors_sha256(tensors)


def test_a_fused_layer_with_one_down_for_all_comes_back_so() -> None:
    stem = "lora_unet_double_blocks_3_img_attn_qkv"
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(6, 8, generator=generator), torch.randn(24, 6, generator=generator)
    fused = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(3.0)}
    layers = read_layers(FILE, fused, {})
    assert sorted(layers) == [f"transformer.transformer_blocks.3.attn.to_{half}" for half in "kqv"]
    assert {(layer.rank, layer.alpha) for layer in layers.values()} == {(6, 3.0)}
    width = {f"{name}": Layer(layer.down.repeat(1, 384), layer.up, layer.alpha) for name, layer in layers.items()}
    again = to_kohya(width)  # as wide as FLUX.1, by which its double blocks are known
    assert torch.equal(again[f"{stem}.lora_up.weight"], fused[f"{stem}.lora_up.weight"])
    assert torch.equal(again[f"{stem}.lora_down.weight"][:, :8], fused[f"{stem}.lora_down.weight"])


def test_parts_of_unlike_rank_have_no_fused_layer(family: Family) -> None:
    tensors = dict(family("flux")[1])
    name = "transformer.transformer_blocks.0.attn.to_k"
    tensors[f"{name}.lora_A.weight"] = tensors[f"{name}.lora_A.weight"][:2].clone()
    tensors[f"{name}.lora_B.weight"] = tensors[f"{name}.lora_B.weight"][:, :2].clone()
    with pytest.raises(IntegrityError, match=re.escape("transformer_blocks.0.attn.to_q and its neighbours differ")):
        kohya(tensors)


@pytest.mark.parametrize(
    ("original", "ours"),
    [
        ("input_blocks_4_1_transformer_blocks_1_ff_net_2", "down_blocks_1_attentions_0_transformer_blocks_1_ff_net_2"),
        ("input_blocks_5_0_in_layers_2", "down_blocks_1_resnets_1_conv1"),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
        ("middle_block_2_out_layers_3", "mid_block_resnets_1_conv2"),
        ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
        ("output_blocks_5_1_proj_out", "up_blocks_1_attentions_2_proj_out"),
        ("output_blocks_8_0_skip_connection", "up_blocks_2_resnets_2_conv_shortcut"),
        ("output_blocks_0_0_emb_layers_1", "up_blocks_0_resnets_0_time_emb_proj"),
        ("label_emb_0_2", "add_embedding_linear_2"),
        ("input_blocks_0_0", "conv_in"),
    ],
)  # fmt: skip
def test_the_original_names_of_sdxl_are_read_as_diffusers_reads_them(original: str, ours: str) -> None:
    assert module_of(f"lora_unet_{original}") == module_of(f"lora_unet_{ours}")


def test_an_sdxl_file_with_the_original_names_lands_where_diffusers_puts_it(family: Family, tmp_path: Path) -> None:
    pipeline, tensors = family("sdxl")
    renamed = kohya({name: t for name, t in tensors.items() if ".down_blocks.1.attentions." in name})
    original = {
        re.sub(r"down_blocks_1_attentions_(\d)", lambda m: f"input_blocks_{4 + int(m[1])}_1", name): tensor
        for name, tensor in renamed.items()
    }
    write_adapter(tmp_path / "original.safetensors", original, {})
    write_adapter(tmp_path / "ours.safetensors", to_diffusers(read_layers(FILE, original, {}))[0], {})
    theirs, ours = (loaded(pipeline, tmp_path / f"{name}.safetensors") for name in ("original", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


@pytest.mark.parametrize("style", ["{}.lora.down.weight", "{}.lora_linear_layer.down.weight", "{}.lora_down.weight"])
def test_older_names_of_diffusers_are_read(style: str) -> None:
    stem = "unet.mid_block.attentions.0.proj_in"
    tensors = {style.format(stem): torch.ones(2, 8), style.format(stem).replace("down", "up"): torch.ones(8, 2)}
    assert list(read_layers(FILE, tensors, {})) == [stem]


def test_the_oldest_names_are_those_that_diffusers_reads(family: Family, tmp_path: Path) -> None:
    pipeline, tensors = family("sd15")
    names = [name for name in tensors if re.search(r"attn[12]\.to_(q|k|v|out\.0)\.|self_attn", name)]
    old: Tensors = {}
    for name in names:
        new = re.sub(r"attn([12])\.to_(q|k|v|out)(?:\.0)?\.lora_", r"attn\1.processor.to_\2_lora_", name)
        new = re.sub(r"self_attn\.(q|k|v|out)_proj\.lora_", r"self_attn.to_\1_lora_", new)
        old[new.replace("lora_A", "lora.down").replace("lora_B", "lora.up")] = tensors[name]
    write_adapter(tmp_path / "old.safetensors", old, {})
    write_adapter(tmp_path / "new.safetensors", {name: tensors[name] for name in names}, {})
    then, now = (loaded(pipeline, tmp_path / f"{name}.safetensors") for name in ("old", "new"))
    assert then.keys() == now.keys()
    assert all(torch.equal(then[key], now[key]) for key in then)
    assert read_layers(FILE, old, {}).keys() == {name.partition(".lora_")[0] for name in names}


@pytest.mark.parametrize("mixed", [False, True])
def test_an_alpha_that_is_not_the_rank_survives_both_ways(mixed: bool, family: Family, tmp_path: Path) -> None:
    pipeline, tensors = family("sd15")
    renamed = kohya({name: t for name, t in tensors.items() if name.startswith("unet.")})
    alphas = (1.0, 2.0, 3.0) if mixed else (2.0,)
    for index, name in enumerate(name for name in renamed if name.endswith(".alpha")):
        renamed[name] = torch.tensor(alphas[index % len(alphas)])
    layers = read_layers(FILE, renamed, {})
    back, extra = to_diffusers(layers)
    write_adapter(tmp_path / "kohya.safetensors", renamed, {})
    write_adapter(tmp_path / "plain.safetensors", back, extra)
    ours = loaded(pipeline, tmp_path / "plain.safetensors")
    assert {key.removesuffix(".scale"): float(value) for key, value in ours.items() if key.endswith("scale")} == {
        name: layer.alpha / 4 for name, layer in layers.items()
    }
    if mixed:  # diffusers gives attention layers the commonest alpha
        with pytest.raises(IntegrityError, match=r"takes unet\S*attn\S* \S+ times as strong as the file says"):
            loaded(pipeline, tmp_path / "kohya.safetensors")
    else:
        theirs = loaded(pipeline, tmp_path / "kohya.safetensors")
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert tensors_sha256(to_kohya(read_layers(FILE, back, extra))) == tensors_sha256(renamed)


def test_an_alpha_of_the_text_encoder_survives_too(family: Family, tmp_path: Path) -> None:
    pipeline, tensors = family("sdxl")
    layers = {name: Layer(layer.down, layer.up, 2.0) for name, layer in read_layers(FILE, tensors, {}).items()}
    back, extra = to_diffusers(layers)
    write_adapter(tmp_path / "plain.safetensors", back, extra)
    found = loaded(pipeline, tmp_path / "plain.safetensors")
    assert {float(value) for key, value in found.items() if key.endswith("scale")} == {0.5}
    assert len(found) == len(layers) * 3


def test_diffusers_reads_the_layout_of_all_but_sd3_and_a_narrow_flux(family: Family) -> None:
    known = {name: diffusers_reads_kohya(read_layers(FILE, family(name)[1], {})) for name in ALL}
    assert known == dict.fromkeys(ALL, True) | {"sd3": False, "flux": False}
    layer = Layer(torch.ones(2, 3072), torch.ones(3072, 2), 2.0)
    assert diffusers_reads_kohya({"transformer.transformer_blocks.0.attn.to_q": layer})


@pytest.mark.parametrize(("width", "block"), [(1536, 38), (3072, 60)])
def test_a_transformer_with_more_blocks_than_any_known_one_is_not_named(width: int, block: int) -> None:
    layer = Layer(torch.ones(2, width), torch.ones(width, 2), 2.0)
    with pytest.raises(IntegrityError, match="no name for transformer"):
        to_kohya({f"transformer.transformer_blocks.{number}.attn.to_q": layer for number in (0, block)})


def stems_of(tensors: Tensors) -> set[str]:
    return {name.removeprefix("lora_unet_").partition(".")[0] for name in tensors}


def test_the_names_of_new_transformers_are_those_that_their_tools_read(family: Family) -> None:
    stems = {name: stems_of(kohya(family(name)[1])) for name in NEW}
    assert {"double_blocks_1_txt_attn_qkv", "double_blocks_0_img_mlp_2", "single_blocks_1_linear1"} < stems["flux2"]
    assert {"transformer_blocks_1_attn_add_q_proj", "transformer_blocks_0_txt_mlp_net_0_proj"} < stems["qwen-image"]
    assert {"layers_1_attention_to_out_0", "noise_refiner_0_feed_forward_w3"} < stems["z-image"]
    assert [len(own) for own in stems.values()] == [2 * 8 + 2 * 2, 2 * 14, 4 * 7 + 1]


@pytest.mark.parametrize("blocks", [19, 60])
def test_attention_alone_is_named_by_blocks_or_by_its_base(blocks: int) -> None:
    layer = Layer(torch.ones(2, 3072), torch.ones(3072, 2), 2.0)
    name = f"transformer_blocks.{blocks - 1}.attn.to_q"
    stem = f"transformer_blocks_{blocks - 1}_attn_to_q"
    assert stems_of(to_kohya({f"transformer.{name}": layer}, "qwen-image")) == {stem}
    assert (stems_of(to_kohya({f"transformer.{name}": layer})) == {stem}) == (blocks == 60)


FLUX2_PATHS = {"double_blocks.0.img_attn.qkv": (32, 96), "single_blocks.1.linear1": (32, 288)}
Z_IMAGE_PATHS = {"layers.0.attention.to_out.0": (32, 32), "context_refiner.0.feed_forward.w1": (32, 85)}
QWEN_PATHS = {"transformer_blocks.1.attn.to_add_out": (32, 32), "transformer_blocks.0.img_mlp.net.2": (128, 32)}


def random_pairs(prefix: str, shapes: dict[str, tuple[int, int]], down: str, up: str) -> Tensors:
    generator, tensors = torch.Generator().manual_seed(0), {}
    for path, (inside, outside) in shapes.items():
        tensors[f"{prefix}{path}.{down}.weight"] = torch.randn(2, inside, generator=generator)
        tensors[f"{prefix}{path}.{up}.weight"] = torch.randn(outside, 2, generator=generator)
    return tensors


@pytest.mark.parametrize(
    ("name", "shapes", "halves"),
    [
        ("flux2", FLUX2_PATHS, ("lora_A", "lora_B")),
        ("z-image", Z_IMAGE_PATHS, ("lora_A", "lora_B")),
        ("qwen-image", QWEN_PATHS, ("lora_A", "lora_B")),
        ("qwen-image", QWEN_PATHS, ("lora_down", "lora_up")),
    ],
)
def test_the_original_modules_names_are_read_as_diffusers_reads_them(
    name: str, shapes: dict[str, tuple[int, int]], halves: tuple[str, str], family: Family
) -> None:
    """As ai-toolkit and musubi-tuner's converter write them."""
    pipeline, ours = family(name)
    tensors = random_pairs("diffusion_model.", shapes, *halves)
    assert layout_of(tensors) == "original"
    layers = read_layers(FILE, tensors, {})
    assert {f"{module}.lora_A.weight" for module in layers} < ours.keys()
    theirs = pipeline.lora_state_dict(dict(tensors))
    assert tensors_sha256(to_diffusers(layers)[0]) == tensors_sha256(theirs)


@pytest.mark.parametrize(("prefix", "halves"), [("lora_unet_", ("down", "up")), ("diffusion_model.", ("A", "B"))])
def test_z_images_fused_names_of_comfyui_are_taken_apart(prefix: str, halves: tuple[str, str]) -> None:
    shapes = {"layers.1.attention.qkv": (32, 96), "layers.1.attention.out": (32, 32)}
    tensors = random_pairs(prefix, shapes, *(f"lora_{half}" for half in halves))
    if prefix == "lora_unet_":
        tensors = {re.sub(r"\.(?!lora|weight)", "_", name): tensor for name, tensor in tensors.items()}
    layers = read_layers(FILE, tensors, {})
    names = [f"transformer.layers.1.attention.to_{part}" for part in ("q", "k", "v", "out.0")]
    assert sorted(layers) == sorted(names)
    fused = torch.cat([update_of(layers[name]) for name in names])
    downs, ups = list(tensors.values())[::2], list(tensors.values())[1::2]
    assert torch.equal(fused, torch.cat([up @ down for down, up in zip(downs, ups, strict=True)]))


def test_two_names_of_one_layer_and_foreign_models_are_refused() -> None:
    half = torch.ones(2, 2)
    twice = {f"diffusion_model.layers.0.attention{dot}out.lora_{h}.weight": half for dot in "._" for h in "AB"}
    with pytest.raises(IntegrityError, match="under two names"):
        read_layers(FILE, twice, {})
    for stem in ("lora_unet_blocks_0_self_attn_q", "diffusion_model.blocks.0.self_attn.q"):
        foreign = {f"{stem}.lora_{half_name}.weight": half for half_name in ("down", "up")}
        with pytest.raises(IntegrityError, match="lora_unet_blocks_0_self_attn_q is a layer of no model"):
            read_layers(FILE, foreign, {})
    mixed = {"diffusion_model.layers.0.attention.out.lora_A.weight": half, "unet.conv_in.lora_A.weight": half}
    with pytest.raises(IntegrityError, match=re.escape("unet.conv_in.lora_A.weight is no LoRA in the original")):
        read_layers(FILE, mixed, {})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unet.conv_in.lora_A.weight", "conv_in has only one of its two factors"),
        ("unet.conv_in.hada_w1_a", "no LoRA or DoRA"),
        ("unet.conv_in.lora_magnitude_vector", "conv_in has only one of its two factors"),
        ("lora_unet_conv_in.lora_mid.weight", "no LoRA or DoRA"),
        ("lora_unet_conv_in.dora_scale", "conv_in has only one of its two factors"),
        ("base_model.model.conv_in.lora_A.weight", "no LoRA or DoRA"),
    ],
)
def test_what_is_no_lora_is_refused_by_its_name(name: str, words: str) -> None:
    with pytest.raises(IntegrityError, match=re.escape(words)):
        read_layers(FILE, {name: torch.ones(2, 2)}, {})


def test_a_layer_that_kohya_cannot_name_is_refused() -> None:
    layer = Layer(torch.ones(2, 8), torch.ones(8, 2), 2.0)
    with pytest.raises(IntegrityError, match=re.escape("no name for transformer.norm_out.linear")):
        to_kohya({"transformer.norm_out.linear": layer})
