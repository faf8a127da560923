"""Where a base's weights come from: a diffusers folder, a hub name, or one safetensors file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from trainer.errors import MissingPartError, UsageError
from trainer.run import sha256_of

SINGLE = ".safetensors"
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
CHUNK_BYTES = 1 << 24
# A file of other tensors than its config promises surfaces as whichever of these its reader meets first.
UNREADABLE = (
    SafetensorError, SingleFileComponentError,
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """Which files.

    Attributes:
        path: diffusers folder, hub name, or a checkpoint file in its makers' own layout.
        revision: hub commit; None for the newest.
        config: diffusers folder or hub name whose config files describe a checkpoint file; None: found by its kind.
    """

    path: str
    revision: str | None = None
    config: str | None = None

    @property
    def single(self) -> bool:
        """Whether it is one checkpoint file."""
        return Path(self.path).suffix == SINGLE

    def sha256(self) -> str:
        """Over every weight and config file; for a hub name the commit that was loaded."""
        if self.single:
            described = folder_sha256(Path(self.config)) if self.config and Path(self.config).is_dir() else self.config
            return hashlib.sha256(f"{sha256_of(Path(self.path))} {described}".encode()).hexdigest()
        return folder_sha256(Path(self.path)) if Path(self.path).is_dir() else _hub_commit(self.path, self.revision)


def load_pipeline(kind: Any, source: Source, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The stock pipeline of class `kind` with its VAE in fp32 and everything else in `dtype`.

    Raises:
        UsageError: for a pickle: reading one can run any code.
        MissingPartError: when the files cannot be read, or do not hold such a pipeline.
    """
    for logging in (diffusers_logging, transformers_logging):  # our own progress says what is going on
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    if Path(source.path).suffix.lower() in PICKLES:
        raise UsageError(
            f"base {source.path} is a pickle, and reading one can run any code",
            "use the .safetensors file of the same model, or convert it where you trust it",
        )
    try:
        if source.single:
            return _from_single_file(kind, source, dtype)
        index = kind.load_config(source.path, revision=source.revision)
        absent = {name: None for name, part in index.items() if isinstance(part, list) and part[0] is None}
        options = absent | options | {"dtype": {"default": dtype, "vae": torch.float32}}
        return kind.from_pretrained(source.path, revision=source.revision, use_safetensors=True, **options)
    except UNREADABLE as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingPartError(f"base {source.path} cannot be loaded: {first}", _hint(source)) from None


def _from_single_file(kind: Any, source: Source, dtype: torch.dtype) -> Any:
    if not Path(source.path).is_file():
        raise OSError("no such file")
    local = source.config is not None and Path(source.config).is_dir()
    pipeline = kind.from_single_file(
        source.path, config=source.config, revision=source.revision, local_files_only=local, dtype=torch.float32
    )
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != "vae":
            part.to(dtype)
    return pipeline


def _hint(source: Source) -> str:
    if source.single:
        return "check base.path, and set base.config to a diffusers folder of the same kind of model"
    return "check base.path in the recipe"


def folder_sha256(folder: Path) -> str:
    """SHA-256, hex, over the relative names and bytes of every weight and config file."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".safetensors", ".json", ".txt", ".model"}:
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            _feed(digest, path)
    return digest.hexdigest()


def _feed(digest: Any, path: Path) -> None:
    with path.open("rb") as file:  # in pieces: a base can be larger than the memory
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit under which the hub's client keeps what was loaded."""
    found = try_to_load_from_cache(name, "model_index.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else str(revision)
