"""convert: what the options promise, what a lower rank keeps, and what is never overwritten or left wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from trainer.adapter import read_adapter, tensors_sha256, write_adapter
from trainer.errors import IntegrityError
from trainer.export.convert import convert
from trainer.export.resize import resize
from trainer.layouts.layer import Layer, Tensors, update_of
from trainer.layouts.layers import read_layers

Family = Callable[[str], tuple[Any, Tensors]]
SAID = {
    "format": "pt", "likeness.trigger": "ohwx", "likeness.of_ceiling": "0.7000", "likeness.verdict": "fair",
    "ss_network_dim": "4", "sshs_legacy_hash": "0badcafe", "modelspec.hash_sha256": "0x0",
}  # fmt: skip


@pytest.fixture
def file(family: Family, tmp_path: Path) -> Path:
    write_adapter(tmp_path / "alice.safetensors", family("sdxl")[1], SAID)
    return tmp_path / "alice.safetensors"


def layers_of(file: Path) -> dict[str, Layer]:
    return read_layers(file, *read_adapter(file))


def test_there_and_back_gives_the_same_weights(file: Path, cli: Command, tmp_path: Path) -> None:
    done = cli("convert", file, "--layout", "kohya", "--json")
    said = json.loads(done.stdout)["result"]
    assert said["out"] == str(tmp_path / "alice.kohya.safetensors")
    assert (said["layout"], said["ranks"], said["rounding"], said["retained"]) == ("kohya", [4], 0, None)
    assert cli("convert", said["out"], "--layout", "diffusers").returncode == 0
    back = tmp_path / "alice.diffusers.safetensors"
    assert tensors_sha256(load_file(back)) == tensors_sha256(load_file(file))
    assert said["tensors_sha256"] == tensors_sha256(load_file(said["out"]))


def test_metadata_is_kept_and_what_no_longer_holds_is_made_anew(file: Path) -> None:
    import hashlib
    import struct

    said = convert(file, layout="kohya", rank=2)
    metadata = read_adapter(Path(said["out"]))[1]
    assert metadata["likeness.trigger"] == "ohwx"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "2")
    assert metadata["likeness.converted_from"] == tensors_sha256(load_file(file))
    assert not metadata.keys() & {"likeness.of_ceiling", "likeness.verdict", "sshs_legacy_hash"}
    data = Path(said["out"]).read_bytes()
    weights = data[8 + struct.unpack("<Q", data[:8])[0] :]
    assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(weights).hexdigest()
    kept = read_adapter(Path(convert(file, layout="kohya")["out"]))[1]
    assert kept["likeness.of_ceiling"] == "0.7000"  # the same weights are worth the same


@pytest.mark.parametrize(("dtype", "kind", "bound"), [("fp16", torch.float16, 2**-11), ("bf16", torch.bfloat16, 2**-8)])
def test_a_narrower_type_says_what_it_rounds(dtype: str, kind: torch.dtype, bound: float, file: Path) -> None:
    said = convert(file, dtype=dtype)
    assert said["out"].endswith(f"alice.{dtype}.safetensors")
    assert {tensor.dtype for tensor in load_file(said["out"]).values()} == {kind}
    assert 0 < said["rounding"] <= bound
    assert convert(Path(said["out"]), dtype="fp32")["rounding"] == 0


def test_a_weight_beyond_fp16_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_adapter(file, {"unet.a.lora_A.weight": torch.full((2, 4), 7e4), "unet.a.lora_B.weight": torch.ones(4, 2)}, {})
    with pytest.raises(IntegrityError, match=r"unet\.a holds weights too large"):
        convert(file, dtype="fp16")
    assert list(tmp_path.iterdir()) == [file]


@given(
    rank=st.integers(1, 9), sides=st.tuples(st.integers(1, 12), st.integers(1, 12)), had=st.integers(1, 8),
    alpha=st.floats(0.1, 20), convolution=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_lower_rank_is_the_best_of_its_rank_and_says_what_it_keeps(
    rank: int, sides: tuple[int, int], had: int, alpha: float, convolution: bool, seed: int
) -> None:
    generator, tail = torch.Generator().manual_seed(seed), (3, 3) if convolution else ()
    down = torch.randn(had, sides[0], *tail, generator=generator)
    up = torch.randn(sides[1], had, *(1,) * len(tail), generator=generator)
    layer = Layer(down, up, alpha)
    (new,), (kept,) = (list(found.values()) for found in resize({"unet.a": layer}, rank))
    whole = update_of(layer)
    sizes = torch.linalg.svdvals(whole.flatten(1).double())
    best = float(sizes[:rank].square().sum() / sizes.square().sum())
    assert kept == pytest.approx(1 if had <= rank else best, abs=1e-5)
    assert new.rank == min(rank, had)
    lost = float((update_of(new) - whole).double().square().sum() / whole.double().square().sum())
    assert lost == pytest.approx(1 - kept, abs=1e-4)


def test_every_layer_and_their_mean_are_reported(file: Path, cli: Command) -> None:
    done = cli("convert", file, "--rank", "3", "--json")
    said = json.loads(done.stdout)["result"]
    by_layer = said["retained"]["by_layer"]
    assert by_layer.keys() == layers_of(file).keys()
    assert 0.5 < said["retained"]["min"] == min(by_layer.values()) < said["retained"]["mean"] < 1
    assert "energy kept, least" in cli("convert", file, "--rank", "3", "--overwrite").stdout


def test_a_rank_that_is_no_lower_changes_nothing(file: Path) -> None:
    said = convert(file, rank=4)
    assert tensors_sha256(load_file(said["out"])) == tensors_sha256(load_file(file))
    assert read_adapter(Path(said["out"]))[1]["likeness.of_ceiling"] == "0.7000"


def test_layers_of_all_zeros_are_cut_without_a_division(tmp_path: Path) -> None:
    layer = Layer(torch.ones(4, 8), torch.zeros(8, 4), 4.0)
    found, kept = resize({"unet.a": layer}, 2)
    assert kept == {"unet.a": 1.0}
    assert not update_of(found["unet.a"]).any()


def test_nothing_is_overwritten_unasked(file: Path, cli: Command) -> None:
    assert cli("convert", file, "--layout", "kohya").returncode == 0
    again = cli("convert", file, "--layout", "kohya")
    assert again.returncode == 2
    assert "is there already" in again.stderr
    before = file.read_bytes()
    assert cli("convert", file, "--dtype", "fp16", "--out", file, "--overwrite").returncode == 2
    assert file.read_bytes() == before
    assert cli("convert", file, "--layout", "kohya", "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to convert"),
        (["--layout", "kohya", "--out", "a.ckpt"], "ends in .safetensors"),
        (["--layout", "kohya", "--out", "none/a.safetensors"], "no such folder"),
        (["--rank", "0"], ""),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str], words: str, file: Path, cli: Command) -> None:
    done = cli("convert", file, *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_file_that_is_not_there_is_a_usage_error(cli: Command) -> None:
    assert cli("convert", "none.safetensors", "--layout", "kohya").returncode == 2
