"""The layers that an adapter's tensors make, read from any layout and written in diffusers' or kohya's, losslessly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from trainer.errors import IntegrityError
from trainer.layouts.keymaps import (
    FLUX,
    FLUX_WIDTH,
    TEXT,
    TRANSFORMER,
    Fused,
    fused_named,
    fused_of,
    module_of,
    stem_of,
    transformer_table,
)
from trainer.layouts.settings import COMPONENTS, KEY, alpha_of, check_names, read_settings, write_settings

Tensors = dict[str, torch.Tensor]
Layout = Literal["diffusers", "kohya"]
KOHYA = re.compile(r"(lora_(?:unet|te|te1|te2)_[A-Za-z0-9_]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
HALVES = r"lora_A|lora_B|lora_down|lora_up|(?:lora|lora_linear_layer)\.(?:down|up)"  # the later ones are older
DIFFUSERS = re.compile(rf"((?:{'|'.join(COMPONENTS)})\.[A-Za-z0-9_.]+?)[._]({HALVES})\.weight")
PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")
FIRST_HALVES = ("lora_A", "lora_down", "lora.down", "lora_linear_layer.down")


@dataclass(frozen=True, slots=True)
class Layer:
    """One adapted layer: its weight grows by `alpha / rank * up @ down` (arXiv 2106.09685, section 4.1).

    Attributes:
        down: (rank, in) or, for a convolution, (rank, in, height, width).
        up: (out, rank) or (out, rank, 1, 1).
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return int(self.down.shape[0])


Layers = dict[str, Layer]


def layout_of(tensors: Mapping[str, torch.Tensor]) -> Layout | Literal["unknown"]:
    """The layout by its names alone."""
    if tensors and all(KOHYA.fullmatch(name) for name in tensors):
        return "kohya"
    return "diffusers" if any(DIFFUSERS.fullmatch(name) for name in tensors) else "unknown"


def read_layers(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> Layers:
    """Every layer by diffusers' module name, as `unet.mid_block.attentions.0.proj_in`, sorted.

    Raises IntegrityError, naming the file and the tensor, for anything that is no whole plain LoRA: a half without
    the other, factors that do not fit each other, LoHa, LoKr, DoRA, or a name that no layout has.
    """
    check_names(path, tensors)
    if not tensors:
        raise IntegrityError(f"{path} holds no tensor")
    if any(KOHYA.fullmatch(name) for name in tensors):
        layers = _from_kohya(path, tensors)
    else:
        layers = _from_diffusers(path, tensors, metadata)
    for module, layer in layers.items():
        down, up = layer.down, layer.up
        if min(down.ndim, up.ndim) < 2 or down.shape[0] != up.shape[1] or down.numel() == 0 or up.numel() == 0:
            raise IntegrityError(
                f"{path}: the factors of {module} do not fit each other: {tuple(down.shape)}, {tuple(up.shape)}"
            )
    return dict(sorted(layers.items()))


def to_diffusers(layers: Layers) -> tuple[Tensors, dict[str, str]]:
    """diffusers' tensors, and the metadata that it needs where an alpha is not its rank ({} elsewhere)."""
    tensors: Tensors = {}
    for module, layer in layers.items():
        tensors |= {f"{module}.lora_A.weight": layer.down, f"{module}.lora_B.weight": layer.up}
    if all(layer.alpha == layer.rank for layer in layers.values()):
        return tensors, {}
    return tensors, {KEY: write_settings({module: (layer.rank, layer.alpha) for module, layer in layers.items()})}


def to_kohya(layers: Layers) -> Tensors:
    """kohya's tensors, as its trainer, ComfyUI and A1111 read them; alpha is written for every layer.

    Raises IntegrityError, naming the layer, for one that this layout has no name for.
    """
    stems: Layers = {}
    table, _ = _table(layers)
    # SDXL, known by its deeper attention, and the transformers number their first encoder even where it is alone.
    numbered = any(
        module.startswith(("text_encoder_2.", f"{TRANSFORMER}.")) or ".transformer_blocks.1." in module
        for module in layers
    )
    for module, layer in layers.items():
        if module.startswith(f"{TRANSFORMER}."):
            row = fused_of(module.removeprefix(f"{TRANSFORMER}."), table)
            if row:
                stems[f"lora_unet_{row[0].stem.format(row[1])}"] = _fuse(row[0], row[1], layers)
                continue
        stem = stem_of(module, numbered)
        if stem is None:
            raise IntegrityError(f"kohya's layout has no name for {module}", "keep the diffusers layout")
        stems[stem] = layer
    tensors: Tensors = {}
    for stem, layer in stems.items():
        tensors |= {f"{stem}.lora_down.weight": layer.down, f"{stem}.lora_up.weight": layer.up}
        tensors[f"{stem}.alpha"] = _exact(layer.alpha, layer.down.dtype)
    return tensors


def diffusers_reads_kohya(layers: Layers) -> bool:
    """Whether diffusers has a reader for these layers in kohya's layout: for UNets and for FLUX.1 as wide as it is."""
    table, width = _table(layers)
    return not table or (table is FLUX and width == FLUX_WIDTH)


def update_of(layer: Layer) -> torch.Tensor:
    """What the layer adds to its weight, float32, (out, in) or (out, in, height, width)."""
    product = layer.up.flatten(1).float() @ layer.down.flatten(1).float()
    return (product * (layer.alpha / layer.rank)).view(layer.up.shape[0], *layer.down.shape[1:])


def _from_diffusers(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> Layers:
    settings = read_settings(path, metadata)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = DIFFUSERS.fullmatch(name)
        if not found:
            raise IntegrityError(f"{path}: {name} is no plain LoRA in diffusers' or kohya's layout")
        half = "down" if found[2] in FIRST_HALVES else "up"
        if half in halves.setdefault(canonical(found[1]), {}):
            raise IntegrityError(f"{path}: {name} is there under two names")
        halves[canonical(found[1])][half] = tensor
    layers = {}
    for module, pair in halves.items():
        if len(pair) != 2:
            raise IntegrityError(f"{path}: {module} has only one of its two factors")
        layers[module] = Layer(pair["down"], pair["up"], alpha_of(settings, module, int(pair["down"].shape[0])))
    return layers


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
            raise IntegrityError(f"{path}: {name} is no plain LoRA in kohya's layout")
        stems.setdefault(found[1], {})[found[2]] = tensor
    layers: Layers = {}
    for stem, parts in stems.items():
        if not {"lora_down.weight", "lora_up.weight"} <= parts.keys():
            raise IntegrityError(f"{path}: {stem} has only one of its two factors")
        down, up = parts["lora_down.weight"], parts["lora_up.weight"]
        alpha = parts.get("alpha", torch.tensor(float(down.shape[0] if down.ndim else 0)))
        if alpha.numel() != 1 or not 0 < float(alpha) < 1e6:
            raise IntegrityError(f"{path}: {stem}.alpha is no usable alpha")
        layer = Layer(down, up, float(alpha))
        fused = fused_named(stem.removeprefix("lora_unet_")) if stem.startswith("lora_unet_") else None
        found_layers = _parts(path, stem, *fused, layer) if fused else {module_of(stem): layer}
        if layers.keys() & found_layers.keys():
            raise IntegrityError(f"{path}: {stem} is there under two names")
        layers |= found_layers
    return layers


def _table(layers: Layers) -> tuple[tuple[Fused, ...], int]:
    """Which transformer's names the file needs, () without a transformer or for an unknown one; and its width."""
    names = [module.removeprefix(f"{TRANSFORMER}.") for module in layers if module.startswith(f"{TRANSFORMER}.")]
    width = max((layers[f"{TRANSFORMER}.{name}"].down.shape[1] for name in names if name.endswith("to_q")), default=0)
    return (transformer_table(names, width) if names else ()), width


def _fuse(row: Fused, number: str, layers: Layers) -> Layer:
    """The layer of the fused projection: the parts' own factors on a block diagonal, or their common `down` once.

    A part that is not adapted is zero rows of the rank of the others. Raises IntegrityError for parts of unlike ranks
    or alphas, which have no one fused layer.
    """
    found = [layers.get(f"{TRANSFORMER}.{part.format(number)}") for part in row.parts]
    there = [layer for layer in found if layer]
    if len(row.parts) == 1:
        return there[0]
    first = there[0]
    if any((layer.rank, layer.alpha) != (first.rank, first.alpha) for layer in there):
        raise IntegrityError(
            f"{row.parts[0].format(number)} and its neighbours differ in rank or alpha: kohya's layout fuses them",
            "keep the diffusers layout",
        )
    unit = next(layer.up.shape[0] // size for layer, size in zip(found, row.sizes, strict=True) if layer)
    empty = replace(first, down=torch.zeros_like(first.down))
    whole = [
        layer or replace(empty, up=first.up.new_zeros(unit * size, first.rank))
        for layer, size in zip(found, row.sizes, strict=True)
    ]
    up = torch.cat([layer.up for layer in whole])
    if len(there) == len(whole) and all(torch.equal(layer.down, first.down) for layer in whole):
        shared = replace(first, up=up)
        if not _is_block_diagonal(up, row):
            return shared
    count = len(whole)
    return Layer(
        torch.cat([layer.down for layer in whole]),
        _block_diagonal([layer.up for layer in whole]),
        first.alpha * count,
    )


def _parts(path: Path, stem: str, row: Fused, number: str, layer: Layer) -> Layers:
    """The layers of diffusers' that a fused one stands for; a part of zeros was not adapted and is left out."""
    modules = [f"{TRANSFORMER}.{part.format(number)}" for part in row.parts]
    if len(modules) == 1:
        return {modules[0]: layer}
    if layer.up.ndim != 2 or layer.up.shape[0] % sum(row.sizes) or layer.down.shape[0] != layer.up.shape[1]:
        raise IntegrityError(f"{path}: {stem} cannot be taken apart: {tuple(layer.up.shape)}")
    ups = torch.split(layer.up, _rows(layer.up, row))
    if not _is_block_diagonal(layer.up, row):
        return {m: replace(layer, down=layer.down.clone(), up=up.clone()) for m, up in zip(modules, ups, strict=True)}
    rank = layer.rank // len(modules)
    parts = [
        Layer(
            layer.down[rank * index : rank * (index + 1)].clone(),
            up[:, rank * index : rank * (index + 1)].clone(),
            layer.alpha / len(modules),
        )
        for index, up in enumerate(ups)
    ]
    adapted = {m: part for m, part in zip(modules, parts, strict=True) if part.down.any() or part.up.any()}
    return adapted or dict(zip(modules, parts, strict=True))


def _block_diagonal(ups: list[torch.Tensor]) -> torch.Tensor:
    diagonal: torch.Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    return diagonal


def _rows(up: torch.Tensor, row: Fused) -> list[int]:
    return [up.shape[0] // sum(row.sizes) * size for size in row.sizes]


def _is_block_diagonal(up: torch.Tensor, row: Fused) -> bool:
    """Whether each part's rows use only that part's share of the rank."""
    count = len(row.parts)
    if up.shape[1] % count:
        return False
    outside = up.clone()
    rank, start = up.shape[1] // count, 0
    for index, rows in enumerate(_rows(up, row)):
        outside[start : start + rows, rank * index : rank * (index + 1)] = 0
        start += rows
    return not bool(outside.any())


def _exact(alpha: float, dtype: torch.dtype) -> torch.Tensor:
    """The alpha in the weights' number format where that holds it exactly, else in float32."""
    found = torch.tensor(alpha, dtype=dtype)
    return found if found.item() == alpha else torch.tensor(alpha, dtype=torch.float32)
