"""Adapter files: what is written is read back, equal weights give equal bytes, damage is noticed."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st

from trainer.adapter import Tensors, describe, read_adapter, tensors_sha256, write_adapter
from trainer.errors import IntegrityError

TYPES = (torch.float32, torch.float16, torch.bfloat16)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
shapes = st.lists(st.integers(0, 3), max_size=3)
metadata = st.dictionaries(words, words, max_size=5)


@st.composite
def adapters(draw: st.DrawFn) -> Tensors:
    kinds = draw(st.dictionaries(names, st.tuples(shapes, st.sampled_from(TYPES)), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return {name: torch.randn(shape, generator=generator).to(kind) for name, (shape, kind) in kinds.items()}


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@given(tensors=adapters(), said=metadata)
def test_what_is_written_is_read_back_and_writing_repeats_itself(
    tensors: Tensors, said: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(folder / "a.safetensors", tensors, said)
    turned = dict(reversed(tensors.items()))
    write_adapter(folder / "b.safetensors", turned, dict(reversed(said.items())))
    found, found_said = read_adapter(folder / "a.safetensors")
    assert same(found, tensors)
    assert found_said == said
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()
    assert tensors_sha256(found) == tensors_sha256(turned)
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_views_and_slices_are_written_as_they_are(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"turned": whole.T, "slice": whole[1:, ::2], "whole": whole.requires_grad_()}
    write_adapter(tmp_path / "a.safetensors", tensors, {})
    assert same(read_adapter(tmp_path / "a.safetensors")[0], {n: t.detach() for n, t in tensors.items()})


def test_the_weights_hash_follows_name_type_shape_and_value() -> None:
    tensor = torch.arange(4.0)
    others = [{"b": tensor}, {"a": tensor.half()}, {"a": tensor.reshape(2, 2)}, {"a": tensor + 1}]
    assert len({tensors_sha256(tensors) for tensors in [{"a": tensor}, *others]}) == 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    write_adapter(path, {"a": torch.arange(64.0), "b": torch.ones(3)}, {"format": "pt"})
    return path


def test_a_file_that_is_cut_or_missing_is_no_adapter(file: Path) -> None:
    data = file.read_bytes()
    for length in (0, 7, 40, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(IntegrityError, match="not a readable adapter"):
            read_adapter(file)
    file.unlink()
    with pytest.raises(IntegrityError, match=str(file)):
        read_adapter(file)


@pytest.mark.parametrize("length", [0, 2**40, 2**63])
def test_a_header_of_absurd_length_is_refused(length: int, file: Path) -> None:
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(IntegrityError):
        read_adapter(file)


@given(start=st.integers(0, 400), junk=st.binary(min_size=1, max_size=12))
def test_a_damaged_header_is_an_adapter_or_an_integrity_error(
    start: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    write_adapter(path, {"a": torch.arange(64.0), "b": torch.ones(3)}, {"format": "pt"})
    data = bytearray(path.read_bytes())
    start %= len(data)
    data[start : start + len(junk)] = junk
    path.write_bytes(data)
    with contextlib.suppress(IntegrityError):  # anything else that escapes fails the test
        read_adapter(path)


def test_the_header_is_sorted_and_aligned(file: Path) -> None:
    write_adapter(file, {"b": torch.ones(1), "a": torch.ones(1)}, {"z": "1", "format": "pt"})
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(header["__metadata__"]) == ["format", "z"]
    assert [name for name in header if name != "__metadata__"] == ["a", "b"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad: float, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.safetensors", {"fine": torch.ones(2), "broken": torch.tensor([0.0, bad])}, {})
    with pytest.raises(IntegrityError, match="broken holds NaN or infinity"):
        read_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("suffix", "layout"), [("", "diffusers"), (".kohya", "kohya")])
def test_a_file_is_described(suffix: str, layout: str, trained: dict[str, Any], cli: Command) -> None:
    file = trained["home"] / trained["result"]["run"] / f"4_export/zelda{suffix}.safetensors"
    said = json.loads(cli("inspect", file, "--json").stdout)["result"]
    assert said == describe(file)
    assert said["layout"] == layout
    assert said["ranks"] == [4]
    assert said["dtypes"] == ["float32"]
    assert said["metadata"]["likeness.trigger"] == "ohwx"
    assert said["tensors_sha256"][:12] in cli("inspect", file).stdout


def test_what_is_no_adapter_is_not_described(cli: Command, tmp_path: Path) -> None:
    assert cli("inspect", tmp_path / "none.safetensors").returncode == 2
    (tmp_path / "text.safetensors").write_text("no adapter")
    assert cli("inspect", tmp_path / "text.safetensors").returncode == 6
    write_adapter(tmp_path / "other.safetensors", {"a": torch.ones(1)}, {})
    assert describe(tmp_path / "other.safetensors")["layout"] == "unknown"
