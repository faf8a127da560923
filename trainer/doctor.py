"""Is this machine ready: what a run needs, whether it is here, and how to mend what is not.

Nothing is brought and nothing is changed; the look takes seconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

from trainer.bases.base import EMBEDDED, best_device, machine, resolve_precision
from trainer.weights import WEIGHTS, cache_folder, needed, state_of

DISTRIBUTION = "likeness-trainer"
TWINS = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python", "opencv-python-headless"))  # of one import name each
ROOM_GB = 2.0  # a run of the default recipe and its caches
LITTLE_MEMORY_GB = 4.0

State = Literal["good", "note", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        state: `note` where a run works and could be better; `broken` where none does.
        hint: what to do, as the user would type it.
    """

    what: str
    state: State
    says: str
    hint: str = ""


def look_around(here: Path) -> list[Finding]:
    """Everything that a run started in the folder `here` would stand on, in the order of its needs."""
    looks: tuple[Callable[[], Iterable[Finding]], ...] = (
        packages, twins, processor, memory, face_models, embedded_base, lambda: room((here, cache_folder())),
    )  # fmt: skip
    return [finding for look in looks for finding in look()]


def packages() -> Iterator[Finding]:
    """Whether what the distribution asks for is installed, in a version that it takes."""
    wrong = []
    for line in requires(DISTRIBUTION) or []:
        asked = Requirement(line)
        if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
            continue
        found = installed(asked.name)
        if found is None or not asked.specifier.contains(found, prereleases=True):
            wrong.append(f"{asked.name}{asked.specifier} (here: {found or 'none'})")
    if wrong:
        yield Finding("packages", "broken", ", ".join(wrong), f"pip install --upgrade {DISTRIBUTION}")
    else:
        yield Finding("packages", "good", f"{DISTRIBUTION} {version(DISTRIBUTION)} and all that it asks for")


def twins() -> Iterator[Finding]:
    """Packages that overwrite each other's files."""
    for one, other in TWINS:
        if installed(one) and installed(other):
            hint = f"pip uninstall --yes {one} {other}, then pip install the one that you want"
            yield Finding(one, "broken", f"{one} and {other} overwrite each other's files", hint)


def processor() -> Iterator[Finding]:
    """What computes, and in which precision."""
    device, precision = best_device(), resolve_precision("auto")
    says = f"{machine()}, {precision}"
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        hint = "pip install --force-reinstall torch, in a build for this machine's CUDA"
        yield Finding("processor", "note", f"{says}: there is an NVIDIA GPU, but this PyTorch cannot use it", hint)
    elif device.type == "cpu":
        hint = "trainer train SUBJECT --recipe portrait-tiny; larger bases want a GPU"
        yield Finding("processor", "note", f"{says}, {os.cpu_count()} cores: no GPU", hint)
    else:
        yield Finding("processor", "good", says)


def memory() -> Iterator[Finding]:
    """What the device that computes has free."""
    if best_device().type == "cuda":
        free, whole = torch.cuda.mem_get_info()
    else:
        free, whole = psutil.virtual_memory().available, psutil.virtual_memory().total
    says = f"{free / 1e9:.1f} of {whole / 1e9:.1f} GB free"
    little = free < LITTLE_MEMORY_GB * 1e9
    yield Finding("memory", "note" if little else "good", says, "trainer plan --recipe NAME" if little else "")


def face_models() -> Iterator[Finding]:
    """The pinned files that every run looks through."""
    states = {file: state_of(file, cache_folder()) for file in WEIGHTS}
    altered = [file for file, state in states.items() if state == "altered"]
    missing = [file for file in needed() if states[file] == "missing"]
    if altered:
        yield Finding("face models", "broken", f"altered: {', '.join(altered)}", "trainer weights get --again")
    elif missing:
        says = f"{len(missing)} of {len(needed())} files are still to be brought; the first run does so"
        yield Finding("face models", "note", says, "trainer weights get")
    else:
        yield Finding("face models", "good", f"{len(needed())} files in {cache_folder()} are whole")


def embedded_base() -> Iterator[Finding]:
    """The base that comes with the distribution."""
    if (EMBEDDED / "model_index.json").is_file():
        yield Finding("portrait-tiny", "good", str(EMBEDDED))
    else:
        hint = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
        yield Finding("portrait-tiny", "broken", f"{EMBEDDED} holds no model", hint)


def room(folders: Iterable[Path]) -> Iterator[Finding]:
    """Whether runs and caches can be written, and have room."""
    for folder in folders:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free / 1e9
        if not os.access(place, os.W_OK):
            yield Finding("folder", "broken", f"{place} cannot be written", "run it in a folder of your own")
        elif free < ROOM_GB:
            yield Finding("folder", "broken", f"{place}: {free:.1f} GB free, {ROOM_GB:g} wanted", "make room there")
        else:
            yield Finding("folder", "good", f"{folder}: {free:.0f} GB free")


def installed(name: str) -> str | None:
    """The version of a distribution that is here."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
