"""The layers that an adapter's tensors make, read from any layout and written in diffusers' or kohya's, losslessly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from trainer.errors import IntegrityError
from trainer.layouts.fused import fuse, parts
from trainer.layouts.keymaps import TEXT, module_of, stem_of
from trainer.layouts.layer import Layer, Layers, Tensors
from trainer.layouts.lengths import check_settings, diffusers_lengths, lengths_name, read_lengths, stretched
from trainer.layouts.settings import COMPONENTS, KEY, alpha_of, check_names, read_settings, write_settings
from trainer.layouts.tables import (
    FLUX,
    FLUX_WIDTH,
    OF_BASE,
    SD3,
    TRANSFORMER,
    Table,
    fused_named,
    fused_of,
    is_flux2,
    transformer_table,
)

Layout = Literal["diffusers", "kohya", "original"]
KOHYA = re.compile(r"(lora_(?:unet|te|te1|te2)_[A-Za-z0-9_]+)\.(lora_down\.weight|lora_up\.weight|alpha|dora_scale)")
HALVES = r"lora_A|lora_B|lora_down|lora_up|(?:lora|lora_linear_layer)\.(?:down|up)"  # the later ones are older
DIFFUSERS = re.compile(rf"((?:{'|'.join(COMPONENTS)})\.[A-Za-z0-9_.]+?)[._]({HALVES})\.weight")
LENGTHS = re.compile(rf"((?:{'|'.join(COMPONENTS)})\.[A-Za-z0-9_.]+)\.lora_magnitude_vector(?:\.weight)?")
# The original model's own module path: ai-toolkit and musubi-tuner's converter write it, ComfyUI reads it.
PATH = re.compile(r"diffusion_model\.([A-Za-z0-9_.]+?)\.((?:lora_A|lora_B|lora_down|lora_up)\.weight|alpha|dora_scale)")
PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")
FIRST_HALVES = ("lora_A", "lora_down", "lora.down", "lora_linear_layer.down")


def layout_of(tensors: Mapping[str, torch.Tensor]) -> Layout | Literal["unknown"]:
    """The layout by its names alone."""
    if tensors and all(KOHYA.fullmatch(name) for name in tensors):
        return "kohya"
    if tensors and all(PATH.fullmatch(name) for name in tensors):
        return "original"
    return "diffusers" if any(DIFFUSERS.fullmatch(name) for name in tensors) else "unknown"


def read_layers(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> Layers:
    """Every layer by diffusers' module name, as `unet.mid_block.attentions.0.proj_in`, sorted.

    Raises IntegrityError, naming the file and the tensor, for anything that is no whole LoRA or DoRA: a half without
    the other, factors or lengths that do not fit each other, LoHa, LoKr, or a name that no layout has.
    """
    check_names(path, tensors)
    if not tensors:
        raise IntegrityError(f"{path} holds no tensor")
    if any(KOHYA.fullmatch(name) for name in tensors):
        layers = _from_kohya(path, tensors)
    elif any(PATH.fullmatch(name) for name in tensors):
        layers = _from_kohya(path, _as_kohya(path, tensors))
    else:
        layers = _from_diffusers(path, tensors, metadata)
    return dict(sorted(layers.items()))


def to_diffusers(layers: Layers) -> tuple[Tensors, dict[str, str]]:
    """diffusers' tensors, and the metadata that it needs where an alpha is not its rank ({} elsewhere).

    Raises IntegrityError, naming a layer, for a DoRA that diffusers would take otherwise.
    """
    doras = stretched(layers)
    tensors: Tensors = {}
    for module, layer in layers.items():
        tensors |= {f"{module}.lora_A.weight": layer.down, f"{module}.lora_B.weight": layer.up}
        if layer.lengths is not None:
            tensors[lengths_name(module)] = diffusers_lengths(module, layer)
    if all(layer.alpha == layer.rank for layer in layers.values()):
        return tensors, {}
    numbers = {module: (layer.rank, layer.alpha) for module, layer in layers.items()}
    return tensors, {KEY: write_settings(numbers, doras)}


def to_kohya(layers: Layers, base: str = "") -> Tensors:
    """kohya's tensors, as its trainers, ComfyUI and A1111 read them; alpha is written for every layer.

    `base` is the name of the base where it is known: a few layers of attention alone could be several transformers'.
    Raises IntegrityError, naming the layer, for one that this layout has no name for.
    """
    stems: Layers = {}
    table = OF_BASE.get(base, _table(layers)[0])
    # SDXL, known by its deeper attention, and the transformers number their first encoder even where it is alone.
    numbered = any(
        module.startswith(("text_encoder_2.", f"{TRANSFORMER}.")) or ".transformer_blocks.1." in module
        for module in layers
    )
    for module, layer in layers.items():
        if module.startswith(f"{TRANSFORMER}."):
            row = fused_of(module.removeprefix(f"{TRANSFORMER}."), table)
            if row:
                stems[f"lora_unet_{row[0].stem.format(row[1])}"] = fuse(row[0], row[1], layers)
                continue
        stem = stem_of(module, numbered)
        if stem is None:
            raise IntegrityError(f"kohya's layout has no name for {module}", "keep the diffusers layout")
        stems[stem] = layer
    tensors: Tensors = {}
    for stem, layer in stems.items():
        tensors |= {f"{stem}.lora_down.weight": layer.down, f"{stem}.lora_up.weight": layer.up}
        tensors[f"{stem}.alpha"] = _exact(layer.alpha, layer.down.dtype)
        if layer.lengths is not None:
            tensors[f"{stem}.dora_scale"] = layer.lengths
    return tensors


def diffusers_reads_kohya(layers: Layers) -> bool:
    """Whether diffusers has a reader for these layers in kohya's layout: for all but SD3 and a narrower FLUX.1.

    A DoRA's lengths it drops.
    """
    table, width = _table(layers)
    plain = all(layer.lengths is None for layer in layers.values())
    return plain and table is not SD3 and (table is not FLUX or width == FLUX_WIDTH)


def _from_diffusers(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> Layers:
    settings = read_settings(path, metadata)
    pieces: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = DIFFUSERS.fullmatch(name) or LENGTHS.fullmatch(name)
        if not found:
            raise IntegrityError(f"{path}: {name} is no LoRA or DoRA in diffusers' or kohya's layout")
        kind = "lengths"
        if found.re is DIFFUSERS:
            kind = "down" if found[2] in FIRST_HALVES else "up"
        if kind in pieces.setdefault(canonical(found[1]), {}):
            raise IntegrityError(f"{path}: {name} is there under two names")
        pieces[canonical(found[1])][kind] = tensor
    layers = {}
    for module, own in pieces.items():
        down, up = _factors(path, module, own.get("down"), own.get("up"))
        lengths = own.get("lengths")
        if lengths is not None:
            lengths = read_lengths(f"{path}: {module}", lengths, down, up, kohya=False)
        layers[module] = Layer(down, up, alpha_of(settings, module, int(down.shape[0])), lengths)
    check_settings(path, settings, KEY, layers)
    return layers


def _factors(
    path: Path, name: str, down: torch.Tensor | None, up: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both of them, which have a product."""
    if down is None or up is None:
        raise IntegrityError(f"{path}: {name} has only one of its two factors")
    if min(down.ndim, up.ndim) < 2 or down.shape[0] != up.shape[1] or down.numel() == 0 or up.numel() == 0:
        raise IntegrityError(
            f"{path}: the factors of {name} do not fit each other: {tuple(down.shape)}, {tuple(up.shape)}"
        )
    return down, up


def canonical(module: str) -> str:
    """Older names of attention layers, and those of a text encoder without its `text_model.`, to one name each."""
    module = PROCESSOR.sub(lambda found: "." + found[1] + (".0" if found[1] == "to_out" else ""), module)
    component, _, name = module.partition(".")
    if component in TEXT:
        old = re.fullmatch(r"(.*self_attn)\.to_(q|k|v|out)", name)
        name = f"{old[1]}.{old[2]}_proj" if old else name
        name = f"text_model.{name}" if name.startswith(("encoder.", "embeddings.")) else name
    return f"{component}.{name}"


def _from_kohya(path: Path, tensors: Tensors) -> Layers:
    stems: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = KOHYA.fullmatch(name)
        if not found:
            raise IntegrityError(f"{path}: {name} is no LoRA or DoRA in kohya's layout")
        stems.setdefault(found[1], {})[found[2]] = tensor
    layers: Layers = {}
    read = {stem: _kohya_layer(path, stem, pieces) for stem, pieces in stems.items()}
    flux2 = any(is_flux2(stem.removeprefix("lora_unet_"), *layer.shape) for stem, layer in read.items())
    for stem, layer in read.items():
        fused = fused_named(stem.removeprefix("lora_unet_"), flux2) if stem.startswith("lora_unet_") else None
        module = module_of(stem)
        if fused is None and module is None:
            raise IntegrityError(f"{path}: {stem} is a layer of no model that is known here")
        found_layers = parts(path, stem, *fused, layer) if fused else {str(module): layer}
        if layers.keys() & found_layers.keys():
            raise IntegrityError(f"{path}: {stem} is there under two names")
        layers |= found_layers
    return layers


def _as_kohya(path: Path, tensors: Tensors) -> Tensors:
    """Tensors under the original model's module paths, under kohya's names of the same layers."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        found = PATH.fullmatch(name)
        if not found:
            raise IntegrityError(f"{path}: {name} is no LoRA in the original model's layout")
        kind = found[2].replace("lora_A", "lora_down").replace("lora_B", "lora_up")
        renamed[f"lora_unet_{found[1].replace('.', '_')}.{kind}"] = tensor
    if len(renamed) < len(tensors):
        raise IntegrityError(f"{path}: a layer is there under two names")
    return renamed


def _kohya_layer(path: Path, stem: str, pieces: Mapping[str, torch.Tensor]) -> Layer:
    down, up = _factors(path, stem, pieces.get("lora_down.weight"), pieces.get("lora_up.weight"))
    alpha, lengths = pieces.get("alpha", torch.tensor(float(down.shape[0]))), pieces.get("dora_scale")
    if alpha.numel() != 1 or not 0 < float(alpha) < 1e6:
        raise IntegrityError(f"{path}: {stem}.alpha is no usable alpha")
    if lengths is not None:
        lengths = read_lengths(f"{path}: {stem}", lengths, down, up, kohya=True)
    return Layer(down, up, float(alpha), lengths)


def _table(layers: Layers) -> tuple[Table, int]:
    """Which transformer's names the file needs, () without a transformer or for an unknown one; and its width."""
    names = [module.removeprefix(f"{TRANSFORMER}.") for module in layers if module.startswith(f"{TRANSFORMER}.")]
    width = max((layers[f"{TRANSFORMER}.{name}"].down.shape[1] for name in names if name.endswith("to_q")), default=0)
    return (transformer_table(names, width) if names else ()), width


def _exact(alpha: float, dtype: torch.dtype) -> torch.Tensor:
    """The alpha in the weights' number format where that holds it exactly, else in float32."""
    found = torch.tensor(alpha, dtype=dtype)
    return found if found.item() == alpha else torch.tensor(alpha, dtype=torch.float32)
