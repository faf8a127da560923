"""Another rank for an adapter: the best approximation that the rank allows, and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import pad

from trainer.layouts.layer import Layer, Layers


def resize(layers: Layers, rank: int) -> tuple[Layers, dict[str, float]]:
    """Every layer at `rank`, and the share of its energy that is kept (0 to 1, by layer).

    A layer of that rank or a lower one stays as it is. The kept part of the update is the nearest matrix of the rank
    in the Frobenius norm (Eckart and Young, Psychometrika 1936); energy is that norm squared. A DoRA's lengths stay.
    """
    pairs = {module: (layer, 1.0) if layer.rank <= rank else _cut(layer, rank) for module, layer in layers.items()}
    return {module: layer for module, (layer, _) in pairs.items()}, {m: kept for m, (_, kept) in pairs.items()}


def _cut(layer: Layer, rank: int) -> tuple[Layer, float]:
    """QR of both factors, then the SVD of their (rank, rank) core: the update itself is never made."""
    up, down = layer.up.flatten(1).double(), layer.down.flatten(1).double()
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.T)
    core = left_core @ right_core.T * (layer.alpha / layer.rank)
    u, sizes, v = torch.linalg.svd(core, full_matrices=False)
    energy = sizes.square()
    kept = float(energy[:rank].sum() / energy.sum()) if energy.sum() > 0 else 1.0
    root = sizes[:rank].sqrt()
    lacks = rank - len(root)  # zeros for a layer narrower than the rank: files of one rank are read by more tools
    new_up = pad(left @ u[:, :rank] * root, (0, lacks)).to(layer.up.dtype)
    new_down = pad(root[:, None] * (v[:rank] @ right.T), (0, 0, 0, lacks)).to(layer.down.dtype)
    return (
        replace(
            layer,
            up=new_up.reshape(layer.up.shape[0], rank, *layer.up.shape[2:]),
            down=new_down.reshape(rank, *layer.down.shape[1:]),
            alpha=float(rank),
        ),
        kept,
    )


def relative_error(layer: Layer, new: Layer) -> float:
    """Frobenius norm of the difference of both updates over that of the first; 0 where that one is nothing.

    U D - U' D' = [U, -U'] [D; D'], whose norm is that of the product of both triangles of its QR: no update is made.
    """
    size = _norm([layer])
    return _norm([layer, new]) / size if size else 0.0


def _norm(layers: Sequence[Layer]) -> float:
    """Norm of the first one's update less those of the others."""
    signs = [1.0, *[-1.0] * (len(layers) - 1)]
    ups = [s * (one.alpha / one.rank) * one.up.flatten(1).double() for s, one in zip(signs, layers, strict=True)]
    left, right = torch.cat(ups, 1), torch.cat([one.down.flatten(1).double() for one in layers])
    return float((torch.linalg.qr(left, "r").R @ torch.linalg.qr(right.T, "r").R.T).norm())
