"""Mutated adapter files: every entrance takes them or refuses them with IntegrityError, soon, in bounded memory.

`make fuzz` runs 1,600 of them, the plain test run 60.
"""

import json
import random
import resource
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.adapter import describe, read_adapter, tensors_sha256, write_adapter
from trainer.bases.base import Base, get_base
from trainer.errors import IntegrityError
from trainer.export.convert import convert
from trainer.export.merge import merge
from trainer.layouts.layer import Tensors
from trainer.layouts.layers import layout_of, read_layers, to_diffusers, to_kohya
from trainer.layouts.settings import KEY

MAX_SECONDS = 30  # of a busy machine; a good one needs a hundredth
MAX_GROWTH_KIB = 2**20
VALUES = [0, -1, 1, 2**31, 2**63, 10**9, 1e308, None, True, "", "F32", "I64", "x" * 1000, [], {}, [0, 4], [1] * 40]
WORDS = ["unet.conv_in.lora_A.weight", "lora_unet_conv_in.alpha", "__metadata__", KEY, "(a+)+$", "../x", "é", "\x00"]


def take_apart(data: bytes) -> tuple[dict[str, object], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header: object, weights: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


def cut(data: bytes, luck: random.Random) -> bytes:
    return data[: luck.randrange(len(data))]


def flip(data: bytes, luck: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(luck.choice((1, 1, 4, 64))):
        changed[luck.randrange(min(len(changed), luck.choice((8, 200, 10**9))))] = luck.randrange(256)
    return bytes(changed)


def splice(data: bytes, luck: random.Random) -> bytes:
    a, b = sorted(luck.randrange(len(data)) for _ in range(2))
    return data[:a] + luck.choice((b"", data[a:b] * 2, luck.randbytes(b - a))) + data[b:]


def relabel(data: bytes, luck: random.Random) -> bytes:
    """Another value somewhere in one tensor's claim."""
    header, weights = take_apart(data)
    name = luck.choice(list(header))
    claim = header[name]
    if isinstance(claim, dict) and claim:
        key = luck.choice(list(claim))
        inner = claim[key]
        if isinstance(inner, list) and inner and luck.random() < 0.7:
            inner[luck.randrange(len(inner))] = luck.choice(VALUES)
        else:
            claim[key] = luck.choice(VALUES)
    return put_together(header, weights)


def rename(data: bytes, luck: random.Random) -> bytes:
    header, weights = take_apart(data)
    name = luck.choice(list(header))
    new = luck.choice((luck.choice(WORDS), name[:-3], name + "x", name.replace("_A", "_B"), name.replace(".", "_")))
    header[new] = header.pop(name)
    return put_together(header, weights)


def drop(data: bytes, luck: random.Random) -> bytes:
    header, weights = take_apart(data)
    header.pop(luck.choice(list(header)))
    return put_together(header, weights)


def retell(data: bytes, luck: random.Random) -> bytes:
    """Other metadata, above all the settings that diffusers hands to PEFT."""
    header, weights = take_apart(data)
    said = {f"unet.{luck.choice(('r', 'lora_alpha', 'alpha_pattern', 'target_modules', 'x'))}": luck.choice(VALUES)}
    header["__metadata__"] = {luck.choice((KEY, "title")): luck.choice((json.dumps(said), "[" * 5000, "\x1b[2J"))}
    return put_together(header, weights)


def poison(data: bytes, luck: random.Random) -> bytes:
    header, weights = take_apart(data)
    changed = bytearray(weights)
    at = 4 * luck.randrange(max(1, len(changed) // 4))
    changed[at : at + 4] = struct.pack("<f", luck.choice((float("nan"), float("inf"), 3e38, -0.0)))
    return put_together(header, bytes(changed))


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    cut, flip, splice, relabel, rename, drop, retell, poison
)  # fmt: skip


@pytest.fixture(scope="module")
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


@pytest.fixture(scope="module")
def originals(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real adapters of the base's UNet: three layouts, two number formats, an alpha that is not the rank, DoRAs."""
    tensors: Tensors = {}
    for name, module in base.denoiser.named_modules():
        if name.endswith(("attn1.to_q", "attn2.to_out.0", "resnets.0.conv1")):
            weight = module.weight
            tensors[f"unet.{name}.lora_A.weight"] = torch.full((2, *weight.shape[1:]), 0.1)
            tensors[f"unet.{name}.lora_B.weight"] = torch.full((weight.shape[0], 2, *(1,) * (weight.ndim - 2)), 0.1)
    folder = tmp_path_factory.mktemp("originals")
    layers = read_layers(folder, tensors, {})
    kohya = to_kohya(layers)
    plain, extra = to_diffusers(read_layers(folder, kohya | {n: t / 2 for n, t in kohya.items() if "alpha" in n}, {}))
    kinds = [(tensors, {"format": "pt"}), (plain, extra), (kohya, {}), ({n: t.half() for n, t in kohya.items()}, {})]
    dora = {name: replace(layer, lengths=torch.ones_like(layer.up[:, :1])) for name, layer in layers.items()}
    kinds += [to_diffusers(dora), (to_kohya(dora), {})]
    residual = "unet.mid_block.resnets.0.conv1.lora_"
    original = {n.replace(residual, "diffusion_model.middle_block.0.in_layers.2.lora_"): t for n, t in tensors.items()}
    kinds.append(({name: tensor for name, tensor in original.items() if name.startswith("diffusion")}, {}))
    for index, (weights, said) in enumerate(kinds):
        write_adapter(folder / f"{index}.safetensors", weights, said)
    return sorted(folder.iterdir())


def check(file: Path, base: Base, base_folder: Path, load: bool) -> None:
    """One mutated file through every entrance."""
    out = file.with_name("out.safetensors")
    other = {"kohya": "diffusers"}.get(_layout(file), "kohya")
    entrances: list[Callable[[], object]] = [
        lambda: describe(file),
        lambda: convert(file, layout=other, rank=1, out=out, overwrite=True),
        lambda: converted_back(file, out, other),
    ]
    shutil.rmtree(file.with_name("merged"), ignore_errors=True)
    if load:
        entrances.append(lambda: base.use_adapter(file))
        entrances.append(lambda: merge(file, base_folder, file.with_name("merged")))
    for enter in entrances:
        started = time.monotonic()
        said = str(file)
        try:
            enter()
        except IntegrityError as error:
            said = error.message
        assert str(file) in said or "kohya's layout" in said or "diffusers' layout" in said
        assert time.monotonic() - started < MAX_SECONDS


def converted_back(file: Path, out: Path, other: str) -> None:
    """What is taken goes to the other layout and back without a changed bit."""
    convert(file, layout=other, out=out, overwrite=True)
    before = read_layers(file, *read_adapter(file))
    after = read_layers(out, *read_adapter(out))
    assert tensors_sha256(to_diffusers(before)[0]) == tensors_sha256(to_diffusers(after)[0])


def _layout(file: Path) -> str:
    try:
        return layout_of(read_adapter(file)[0])
    except IntegrityError:
        return "unknown"


def mutated(data: bytes, how: list[int], luck: random.Random, folder: Path) -> Path:
    for index in how:
        try:
            data = MUTATIONS[index](data, luck)
        except (ValueError, struct.error, IndexError, AttributeError, TypeError, KeyError):
            break  # an earlier mutation left nothing to take apart
    file = folder / "mutant.safetensors"
    file.write_bytes(data)
    return file


mutants = given(
    original=st.integers(0, 6), how=st.lists(st.integers(0, len(MUTATIONS) - 1), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.fuzz
@settings(max_examples=1500, suppress_health_check=quiet)
@mutants
def test_no_mutated_adapter_breaks_a_reader(
    original: int, how: list[int], seed: int, originals: list[Path], base: Base, random_base: Path, tmp_path: Path
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(mutated(originals[original].read_bytes(), how, random.Random(seed), tmp_path), base, random_base, load=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KIB


@pytest.mark.fuzz
@settings(max_examples=100, suppress_health_check=quiet)
@mutants
def test_no_mutated_adapter_breaks_the_base(
    original: int, how: list[int], seed: int, originals: list[Path], base: Base, random_base: Path, tmp_path: Path
) -> None:
    check(mutated(originals[original].read_bytes(), how, random.Random(seed), tmp_path), base, random_base, load=True)


@settings(max_examples=60, suppress_health_check=quiet)
@mutants
def test_a_slice_of_both(
    original: int, how: list[int], seed: int, originals: list[Path], base: Base, random_base: Path, tmp_path: Path
) -> None:
    file = mutated(originals[original].read_bytes(), how, random.Random(seed), tmp_path)
    check(file, base, random_base, load=seed % 8 == 0)
