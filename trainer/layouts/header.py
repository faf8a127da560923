"""What a safetensors file claims, checked before a byte of its weights is read.

The library that reads the weights checks their offsets. It trusts a header of any length up to 100 MB, takes the last
of two equal keys, and makes room for whatever a sparse file claims to hold: that is what is refused here.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import IntegrityError

SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 16 * 2**20  # names, and the tags that some trainers write in
MAX_TENSORS = 50_000
MAX_TENSOR_ELEMENTS = 2**27  # a factor of rank 4096 for a layer 32768 wide
MAX_BYTES = 8 * 2**30
# U8 holds the moments of 8-bit optimizers in a fit's state.
DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1}
# First bytes of what is often found under a wrong name.
STRANGERS = (
    (b"PK\x03\x04", "a PyTorch pickle or another zip archive"),
    (b"\x80", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was never brought"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"<", "a web page"),
)


def check_header(path: Path) -> dict[str, Any]:
    """The parsed header of a file that may be read.

    Raises IntegrityError, naming the file and the reason, for a name that does not end in .safetensors (other tools
    would open it as a pickle), for what is no safetensors, and for claims beyond the bounds above. At most
    `MAX_HEADER_BYTES` are read.
    """
    if path.suffix != SUFFIX:
        raise IntegrityError(
            f"{path} is not a readable adapter: its name does not end in {SUFFIX}",
            "pickles (.bin, .ckpt, .pt) are never opened: convert the file with the tool that made it",
        )
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header = _parse(_header_bytes(file, size))
            _check_claims(header, size)
    except OSError as error:
        raise IntegrityError(f"{path} is not a readable adapter: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is not a readable adapter: {error}", "bring the file again from where it came"
        ) from None
    return header


def _header_bytes(file: BinaryIO, size: int) -> bytes:
    start = file.read(32)
    if len(start) < 8:
        raise ValueError(f"it is {size} bytes long, cut off before its header")
    (length,) = struct.unpack("<Q", start[:8])
    if length > min(size - 8, MAX_HEADER_BYTES):
        for magic, words in STRANGERS:
            if start.startswith(magic):
                raise ValueError(f"it is {words}, not safetensors")
        said = f"its header claims {length} bytes"
        raise ValueError(f"{said}, the file has {size}" if length > size - 8 else f"{said}, at most {MAX_HEADER_BYTES}")
    file.seek(8)
    return file.read(length)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data, object_pairs_hook=_without_twins)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("its header is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is no JSON: {error.msg} at {error.pos}") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twin, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"its header names {_short(twin)} twice")
    return found


def _check_claims(header: dict[str, Any], size: int) -> None:
    claims = {name: claim for name, claim in header.items() if name != "__metadata__"}
    if len(claims) > MAX_TENSORS:
        raise ValueError(f"it claims {len(claims)} tensors, at most {MAX_TENSORS}")
    total = sum(_claimed_bytes(name, claim) for name, claim in claims.items())
    if total > min(size, MAX_BYTES):
        raise ValueError(f"its tensors claim {total} bytes, the file has {size}, at most {MAX_BYTES} are read")


def _claimed_bytes(name: str, claim: Any) -> int:
    shape, kind = (claim.get("shape"), claim.get("dtype")) if isinstance(claim, dict) else (None, None)
    if not isinstance(shape, list) or len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"{_short(name)} has no usable shape")
    if not isinstance(kind, str) or kind not in DTYPE_BYTES:
        raise ValueError(f"{_short(name)} is of type {_short(str(kind))}, not one of {', '.join(DTYPE_BYTES)}")
    if max(shape, default=0) > MAX_TENSOR_ELEMENTS or math.prod(shape) > MAX_TENSOR_ELEMENTS:
        raise ValueError(
            f"{_short(name)} claims {'x'.join(map(str, shape))[:60]} elements, at most {MAX_TENSOR_ELEMENTS}"
        )
    return math.prod(shape) * DTYPE_BYTES[kind]


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")
