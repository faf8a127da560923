"""The lengths of a DoRA (arXiv 2402.09353) under the names and in the shapes of each layout.

diffusers and PEFT call them `lora_magnitude_vector`, LyCORIS and the readers of kohya's layout `dora_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.errors import IntegrityError
from trainer.layouts.layer import Layer, Layers


def read_lengths(name: str, tensor: torch.Tensor, down: torch.Tensor, up: torch.Tensor, kohya: bool) -> torch.Tensor:
    """Lengths as `Layer` holds them; `name` begins with the file's.

    diffusers' are of the rows: (out,) or, of a convolution, (1, out, 1, 1). LyCORIS says by the shape what they are
    of: (out, 1) or (out, 1, 1, 1) the rows, (1, in) or (1, in, 1, 1) the columns.

    Raises IntegrityError for another shape.
    """
    ones = (1,) * (down.ndim - 2)
    rows, columns = (up.shape[0], 1, *ones), (1, *down.shape[1:2], *ones)
    theirs = (up.shape[0],) if down.ndim == 2 else (1, up.shape[0], *ones)
    shape = tuple(tensor.shape)
    if kohya and shape in (rows, columns):
        return tensor
    if shape == theirs or (kohya and shape == rows[:1]):
        return tensor.reshape(rows)
    raise IntegrityError(f"{name} holds lengths of {shape}, the layer has {rows[0]} rows and {columns[1:2]} columns")


def lengths_name(module: str) -> str:
    """diffusers' name of them: transformers, which loads text encoders, reads them under the parameter's whole name."""
    return f"{module}.lora_magnitude_vector" + (".weight" if module.startswith("text_encoder") else "")


def diffusers_lengths(module: str, layer: Layer) -> torch.Tensor:
    """The lengths in diffusers' shape. Raises IntegrityError for those of columns, which it does not know."""
    if layer.lengths is None:
        raise ValueError(module)
    if not of_rows(layer):
        raise IntegrityError(
            f"diffusers' layout has no name for lengths of columns, which {module} has: PEFT stretches rows",
            "keep kohya's layout",
        )
    return layer.lengths.reshape(-1) if layer.down.ndim == 2 else layer.lengths.reshape(1, -1, 1, 1)


def of_rows(layer: Layer) -> bool:
    """Whether the lengths, which must be there, are of the rows."""
    return layer.lengths is not None and layer.lengths.shape[0] == layer.up.shape[0]


def stretched(layers: Layers, file: str = "") -> set[str]:
    """The components, as `unet`, that are a DoRA.

    Raises IntegrityError for one of which only some layers are: PEFT would make up the lengths of the others.
    """
    found = set()
    for component in {module.partition(".")[0] for module in layers}:
        own = {module: layer for module, layer in layers.items() if module.startswith(f"{component}.")}
        plain = [module for module, layer in own.items() if layer.lengths is None]
        if len(plain) < len(own):
            if plain:
                said = f"{len(plain)} of the {len(own)} layers of {component} have no lengths, as {plain[0]}"
                raise IntegrityError(
                    f"{file}diffusers' layout makes a DoRA of every layer or of none: {said}", "keep kohya's layout"
                )
            found.add(component)
    return found


def check_settings(path: Path, settings: Mapping[str, Any], key: str, layers: Layers) -> None:
    """Raises IntegrityError where the file's settings call a component a DoRA that is none, or the other way round."""
    doras = stretched(layers, f"{path}: ")
    for component in sorted({said.partition(".")[0] for said in settings}):
        said = bool(settings.get(f"{component}.use_dora"))
        if said != (component in doras):
            raise IntegrityError(f"{path}: its {key} asks for {component}.use_dora={said}, its tensors do not")
