"""Files that want to be read as adapters and must not be: refused by every command, by name, with the reason."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command

from trainer.adapter import read_adapter, write_adapter
from trainer.bases.loading import load_adapter
from trainer.errors import IntegrityError
from trainer.layouts.header import MAX_HEADER_BYTES, check_header
from trainer.layouts.layer import Tensors
from trainer.layouts.settings import KEY, read_settings

NAME = "unet.conv_in.lora_A.weight"


def claim(start: int = 0, end: int = 4, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def zipped(folder: Path) -> bytes:
    torch.save({NAME: torch.ones(2)}, folder / "model.bin")
    return (folder / "model.bin").read_bytes()


FOUR = bytes(4)
TWICE = b'{"a":%s,"a":%s}' % ((json.dumps(claim()).encode(),) * 2)
HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "0 bytes long"),
    "cut in its length": (lambda _: b"\x10\0\0", "3 bytes long"),
    "cut in its header": (lambda _: packed({"a": claim()}, FOUR)[:20], "the file has 20"),
    "cut in its weights": (lambda _: packed({"a": claim()}, b"\0\0"), "not fully covered"),
    "a PyTorch pickle": (zipped, "a PyTorch pickle"),
    "a plain pickle": (lambda _: pickle.dumps({"a": 1}), "a Python pickle"),
    "a pointer": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "a web page": (lambda _: b"<!doctype html><title>404</title>", "a web page"),
    "a picture": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(64), "a picture"),
    "a header beyond the file": (lambda _: packed({"a": claim()}, FOUR, 2**63), "claims 9223372036854775808 bytes"),
    "a huge header": (lambda _: packed(b" " * (MAX_HEADER_BYTES + 1)), f"at most {MAX_HEADER_BYTES}"),
    "no JSON": (lambda _: packed(b"{nothing}"), "no JSON"),
    "no UTF-8": (lambda _: packed(b'{"\xff": 1}'), "no UTF-8"),
    "no object": (lambda _: packed([claim()], FOUR), "no JSON object"),
    "deep JSON": (lambda _: packed(b'{"a":' * 100_000), "nested too deeply"),
    "a long number": (lambda _: packed(b'{"a":' + b"9" * 100_000 + b"}"), "readable"),
    "a tensor twice": (lambda _: packed(TWICE, FOUR), "names 'a' twice"),
    "a metadata key twice": (lambda _: packed(b'{"__metadata__":{"b":"1","b":"2"}}'), "names 'b' twice"),
    "overlapping": (lambda _: packed({"a": claim(), "b": claim()}, FOUR), "offset"),
    "overlapping in part": (lambda _: packed({"a": claim(0, 8, (2,)), "b": claim(4, 12, (2,))}, bytes(16)), "offset"),
    "backwards": (lambda _: packed({"a": claim(4, 0)}, FOUR), "offset"),
    "with a hole": (lambda _: packed({"a": claim(), "b": claim(8, 12)}, bytes(12)), "offset"),
    "beyond its end": (lambda _: packed({"a": claim(0, 8, (2,))}, FOUR), "not fully covered"),
    "a billion elements": (lambda _: packed({"a": claim(0, 4 * 10**9, (10**9,))}, FOUR), "claims 1000000000 elements"),
    "a billion in two sides": (lambda _: packed({"a": claim(0, 4, (10**5, 10**4))}, FOUR), "100000x10000 elements"),
    "many large ones": (lambda _: packed({str(n): claim(0, 4, (2**26,)) for n in range(40)}, FOUR), "claim 10737"),
    "many tensors": (lambda _: packed({str(n): claim(0, 0, (0,)) for n in range(50_001)}), "claims 50001 tensors"),
    "a negative side": (lambda _: packed({"a": claim(0, 4, (-1,))}, FOUR), "no usable shape"),
    "a side of text": (lambda _: packed({"a": claim(0, 4, ("1",))}, FOUR), "no usable shape"),
    "many sides": (lambda _: packed({"a": claim(0, 4, (1,) * 1000)}, FOUR), "no usable shape"),
    "an unknown type": (lambda _: packed({"a": claim(dtype="F4")}, FOUR), "of type 'F4'"),
    "a type of lists": (lambda _: packed({"a": {**claim(), "dtype": []}}, FOUR), "of type '[]'"),
    "a claim of text": (lambda _: packed({"a": "everything"}, FOUR), "no usable shape"),
    "metadata that is no text": (lambda _: packed({"__metadata__": {"a": 1}, "a": claim()}, FOUR), "expected a string"),
    "NaN": (lambda _: packed({NAME: claim()}, struct.pack("<f", float("nan"))), "NaN or infinity"),
    "infinity": (lambda _: packed({NAME: claim()}, struct.pack("<f", float("-inf"))), "NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_by_name_and_reason(kind: str, tmp_path: Path) -> None:
    content, words = HOSTILE[kind]
    file = tmp_path / "alice.safetensors"
    file.write_bytes(content(tmp_path))
    with pytest.raises(IntegrityError) as caught:
        read_adapter(file)
    assert str(file) in caught.value.message
    assert words in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "kind", ["cut in its weights", "a PyTorch pickle", "a tensor twice", "a billion elements", "NaN"]
)
def test_every_command_that_reads_adapters_refuses_it(kind: str, cli: Command, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "alice.safetensors"
    file.write_bytes(HOSTILE[kind][0](tmp_path))
    base = Path(__file__).resolve().parents[2] / "trainer/bases/portrait_tiny"
    for arguments in (
        ("inspect", file),
        ("convert", file, "--layout", "kohya"),
        ("merge", file, "--base", base, "--out", tmp_path / "merged"),
        ("evaluate", "alice", "--adapter", file, "--photos", photos),
    ):
        done = cli(*arguments, "--json")
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["code"]) == (6, "integrity"), arguments
        assert str(file) in error["message"]
        assert HOSTILE[kind][1] in error["message"]
    assert {path.name for path in tmp_path.iterdir()} <= {"alice.safetensors", "photos", "model.bin"}


@pytest.mark.parametrize("name", ["adapter.bin", "adapter.ckpt", "adapter.pt", "adapter"])
def test_a_name_that_others_would_unpickle_is_refused_whatever_it_holds(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / name, {NAME: torch.ones(2, 2)}, {})
    with pytest.raises(IntegrityError, match=r"does not end in \.safetensors"):
        check_header(tmp_path / name)


def test_a_sparse_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse.safetensors"
    header = packed({str(n): claim(n * 2**28, (n + 1) * 2**28, (2**26,)) for n in range(64)})
    file.write_bytes(header)
    os.truncate(file, len(header) + 2**34)  # 16 GiB on paper
    with pytest.raises(IntegrityError, match="at most 8589934592 are read"):
        read_adapter(file)


def test_tensors_may_lie_in_another_order_than_their_names(tmp_path: Path) -> None:
    file = tmp_path / "turned.safetensors"
    file.write_bytes(packed({"a": claim(4, 8), "b": claim(0, 4)}, struct.pack("<ff", 1, 2)))
    assert {name: float(tensor) for name, tensor in read_adapter(file)[0].items()} == {"a": 2, "b": 1}


def pair(name: str = "unet.conv_in", rank: int = 2) -> Tensors:
    return {f"{name}.lora_A.weight": torch.ones(rank, 4, 3, 3), f"{name}.lora_B.weight": torch.ones(32, rank, 1, 1)}


@pytest.mark.parametrize(
    "settings",
    [
        {"unet.megatron_config": {"a": 1}, "unet.megatron_core": "antigravity"},
        {"unet.r": 10**9},
        {"unet.r": True},
        {"unet.rank_pattern": {"conv_in": 10**9}},
        {"unet.rank_pattern": {"(a+)+$": 4}},
        {"unet.alpha_pattern": {"(a+)+$": 4}},
        {"unet.lora_alpha": 1e300},
        {"unet.target_modules": "(a+)+$"},
        {"unet.target_modules": ["(a+)+$"]},
        {"unet.exclude_modules": "(a+)+$"},
        {"unet.layers_pattern": "(a+)+$"},
        {"unet.init_lora_weights": "pissa"},
        {"unet.modules_to_save": ["conv_out"]},
        {"unet.use_dora": True},
        {"unet.auto_mapping": {"base_model_class": "x"}},
        {"unet.runtime_config": {"ephemeral_gpu_offload": True}},
        {"unet.bias": "all"},
        {"unet.something_new": 1},
        ["unet.r"],
        "text",
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_settings_that_do_more_than_scale_a_lora_never_reach_peft(
    settings: Any, random_base: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    file = tmp_path / "a.safetensors"
    write_adapter(file, pair(), {KEY: json.dumps(settings)})
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    with pytest.raises(IntegrityError, match=r"a\.safetensors: its lora_adapter_metadata"):
        load_adapter(pipeline, file, "one", "stock")


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "{" + '"a":{' * 50_000, " " * (5 * 2**20)])
def test_settings_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_settings(Path("a"), {KEY: text})


def test_settings_that_peft_writes_itself_are_taken() -> None:
    from peft import LoraConfig

    said = {f"unet.{key}": value for key, value in LoraConfig(r=4, target_modules=["to_q"]).to_dict().items()}
    said["unet.target_modules"], said["unet.peft_type"] = ["to_q"], "LORA"
    assert read_settings(Path("a"), {KEY: json.dumps(said)})["unet.r"] == 4


def test_a_name_that_is_a_pattern_never_reaches_peft(random_base: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    write_adapter(tmp_path / "a.safetensors", pair("unet.(a+)+$"), {})
    with pytest.raises(IntegrityError, match="is no name of a layer"):
        load_adapter(pipeline, tmp_path / "a.safetensors", "one", "stock")


def test_what_a_file_says_cannot_steer_the_terminal(cli: Command, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.safetensors", pair(), {"title": "\x1b[2J[/bold][red]x\x07", "\x1b]0;y": "1"})
    done = cli("inspect", tmp_path / "a.safetensors")
    assert done.returncode == 0
    assert "[/bold][red]x" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
