"""Vectors of words that a base did not know (textual inversion, arXiv 2208.01618), as adapter files hold them.

Among a LoRA's tensors they are `bundle_emb.WORD.clip_l` and, for a second encoder, `.clip_g`: so A1111 reads them
(extensions-builtin/Lora/networks.py, load_network) and ComfyUI (comfy/sd1_clip.py, bundled_embed). diffusers refuses a
LoRA with such names, and reads a file of their own: WORD alone where one encoder reads texts, clip_l and clip_g where
two do, as A1111 (modules/textual_inversion/textual_inversion.py, create_embedding_from_data) and ComfyUI (load_embed)
read it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from trainer.errors import IntegrityError
from trainer.layouts.header import SUFFIX
from trainer.layouts.layer import Tensors

Words = dict[str, Tensors]
"""By word and encoder key: (vectors, width)."""

BUNDLE = "bundle_emb."
KEYS = ("clip_l", "clip_g")  # of the first CLIP encoder and of the second
ALONE = "string_to_param.*"  # as A1111 bundles the vectors of SD 1.x
BESIDE = f".tokens{SUFFIX}"
SHA256 = "likeness.tokens_sha256"  # of a file's metadata whose vectors lie beside it
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
MOST_VECTORS = 75  # a text of CLIP has 77 tokens, two of which are its marks


def split_words(path: Path, tensors: Tensors) -> tuple[Tensors, Words]:
    """The tensors without the vectors, and the vectors.

    Raises IntegrityError, naming the file and the tensor, for a vector that no text encoder could take.
    """
    words: Words = {}
    for name in [name for name in tensors if name.startswith(BUNDLE)]:
        word, _, key = name.removeprefix(BUNDLE).partition(".")
        key = KEYS[0] if key == ALONE else key
        if not WORD.fullmatch(word) or key not in KEYS:
            raise IntegrityError(f"{path}: {name[:80]} is no vector of a word that is known here")
        if key in words.setdefault(word, {}):
            raise IntegrityError(f"{path}: the vectors of {word} are there under two names")
        words[word][key] = _vectors(path, name, tensors[name])
    _check_counts(path, words)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(BUNDLE)}, words


def read_beside(path: Path, tensors: Tensors, word: str) -> Words:
    """The vectors of a file of their own; `word` where the file does not say it.

    Raises IntegrityError, naming the file, for anything else.
    """
    names = sorted(tensors)
    if names == sorted(KEYS):
        found = {word: {key: _vectors(path, key, tensors[key]) for key in KEYS}}
    elif len(names) == 1 and WORD.fullmatch(names[0]):
        found = {names[0]: {KEYS[0]: _vectors(path, names[0], tensors[names[0]])}}
    else:
        raise IntegrityError(f"{path} holds no vectors of one word", "bring the file again from where it came")
    _check_counts(path, found)
    return found


def bundled(words: Mapping[str, Tensors]) -> Tensors:
    """The vectors under the names that they have among a LoRA's tensors."""
    return {f"{BUNDLE}{word}.{key}": tensor for word, own in words.items() for key, tensor in own.items()}


def alone(words: Mapping[str, Tensors]) -> Tensors:
    """The vectors of the one word under the names that they have in a file of their own."""
    ((word, own),) = words.items()
    return dict(own) if len(own) > 1 else {word: own[KEYS[0]]}


def beside(adapter: Path) -> Path:
    """The file of the vectors of this adapter: `alice.tokens.safetensors` beside `alice.safetensors`."""
    return adapter.with_name(adapter.name.removesuffix(SUFFIX) + BESIDE)


def _vectors(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    rows = tensor[None] if tensor.ndim == 1 else tensor
    if not tensor.is_floating_point() or rows.ndim != 2 or not rows.numel() or len(rows) > MOST_VECTORS:
        shape = "x".join(map(str, tensor.shape))
        raise IntegrityError(f"{path}: {name} is no table of 1 to {MOST_VECTORS} vectors: {shape} of {tensor.dtype}")
    return rows


def _check_counts(path: Path, words: Words) -> None:
    for word, own in words.items():
        if len({len(tensor) for tensor in own.values()}) > 1:
            raise IntegrityError(f"{path}: {word} has not as many vectors for one encoder as for the other")
