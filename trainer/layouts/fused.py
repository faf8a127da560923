"""The fused projections of transformers in kohya's layout: their layers put together and taken apart, losslessly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from trainer.errors import IntegrityError
from trainer.layouts.layer import Layer, Layers
from trainer.layouts.lengths import of_rows
from trainer.layouts.tables import TRANSFORMER, Fused


def fuse(row: Fused, number: str, layers: Layers) -> Layer:
    """The layer of the fused projection: the parts' own factors on a block diagonal, or their common `down` once.

    A part that is not adapted is zero rows of the rank of the others. Raises IntegrityError for parts of unlike ranks
    or alphas and for a DoRA of some parts alone, which have no one fused layer.
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
    lengths = _fused_lengths(row.parts[0].format(number), found)
    unit = next(layer.up.shape[0] // size for layer, size in zip(found, row.sizes, strict=True) if layer)
    empty = replace(first, down=torch.zeros_like(first.down), lengths=None)
    whole = [
        layer or replace(empty, up=first.up.new_zeros(unit * size, first.rank))
        for layer, size in zip(found, row.sizes, strict=True)
    ]
    up = torch.cat([layer.up for layer in whole])
    if len(there) == len(whole) and all(torch.equal(layer.down, first.down) for layer in whole):
        shared = replace(first, up=up, lengths=lengths)
        if not _is_block_diagonal(up, row):
            return shared
    count = len(whole)
    return Layer(
        torch.cat([layer.down for layer in whole]),
        _block_diagonal([layer.up for layer in whole]),
        first.alpha * count,
        lengths,
    )


def parts(path: Path, stem: str, row: Fused, number: str, layer: Layer) -> Layers:
    """The layers of diffusers' that a fused one stands for; a part of zeros was not adapted and is left out."""
    modules = [f"{TRANSFORMER}.{part.format(number)}" for part in row.parts]
    if len(modules) == 1:
        return {modules[0]: layer}
    if layer.up.ndim != 2 or layer.up.shape[0] % sum(row.sizes) or layer.down.shape[0] != layer.up.shape[1]:
        raise IntegrityError(f"{path}: {stem} cannot be taken apart: {tuple(layer.up.shape)}")
    ups = torch.split(layer.up, _rows(layer.up, row))
    lengths = _split_lengths(path, stem, row, layer)
    if not _is_block_diagonal(layer.up, row):
        own = [
            replace(layer, down=layer.down.clone(), up=up.clone(), lengths=length)
            for up, length in zip(ups, lengths, strict=True)
        ]
        return dict(zip(modules, own, strict=True))
    rank = layer.rank // len(modules)
    taken = [
        Layer(
            layer.down[rank * index : rank * (index + 1)].clone(),
            up[:, rank * index : rank * (index + 1)].clone(),
            layer.alpha / len(modules),
            lengths[index],
        )
        for index, up in enumerate(ups)
    ]
    adapted = {m: part for m, part in zip(modules, taken, strict=True) if _is_adapted(part)}
    return adapted or dict(zip(modules, taken, strict=True))


def _is_adapted(layer: Layer) -> bool:
    return layer.lengths is not None or bool(layer.down.any()) or bool(layer.up.any())


def _fused_lengths(first: str, found: Sequence[Layer | None]) -> torch.Tensor | None:
    """The parts' lengths in the order of the fused rows: a row's length is its own in the fused layer too."""
    lengths = [layer.lengths for layer in found if layer and layer.lengths is not None]
    if not lengths:
        return None
    if len(lengths) != len(found) or not all(layer and of_rows(layer) for layer in found):
        raise IntegrityError(
            f"{first} is a DoRA and not all of its neighbours are one of rows: kohya's layout fuses them",
            "keep the diffusers layout",
        )
    return torch.cat(lengths)


def _split_lengths(path: Path, stem: str, row: Fused, layer: Layer) -> Sequence[torch.Tensor | None]:
    if layer.lengths is None:
        return [None] * len(row.parts)
    if not of_rows(layer):
        raise IntegrityError(f"{path}: {stem} is a DoRA with the lengths of its columns, which cannot be taken apart")
    return [length.clone() for length in torch.split(layer.lengths, _rows(layer.up, row))]


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
