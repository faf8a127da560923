"""Shared fixtures: real model files, the demo person's photos, a tiny random base, and ways to call the command."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from typer.testing import CliRunner

from trainer.console import Console, Tick
from trainer.faces.align import portrait_square
from trainer.faces.base import Detector
from trainer.pictures import open_picture
from trainer.records import Framed
from trainer.weights import NEW_BASE, cache_folder, fetch, needed

pytest_plugins = ["families"]
ROOT = Path(__file__).resolve().parent.parent
Completed = subprocess.CompletedProcess[str]
Command = Callable[..., Completed]

settings.register_profile("house", deadline=None)  # a busy machine is no failure
settings.load_profile("house")


@pytest.fixture(scope="session")
def weights() -> Path:
    folder = cache_folder()
    fetch(folder, files=needed(NEW_BASE))
    return folder


@pytest.fixture(scope="session")
def demo_photos() -> Path:
    return ROOT / "subjects" / "demo" / "photos"


@pytest.fixture(scope="session")
def demo_files(demo_photos: Path) -> list[Path]:
    return sorted(path for path in demo_photos.iterdir() if path.suffix.lower() in {".jpg", ".jpeg"})


@pytest.fixture
def photos(tmp_path: Path, demo_files: list[Path]) -> Path:
    """Twelve photos of the demo person in a folder that the test may add to."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, file in enumerate(demo_files[:12]):
        shutil.copyfile(file, folder / f"holiday{index:02d}.jpg")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model of a family, written when first asked for."""
    from tiny_bases import save_tiny

    return functools.cache(lambda name: save_tiny(name, tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="session")
def random_base(tiny_base: Callable[[str], Path]) -> Path:
    """A StableDiffusionPipeline folder of 128 px with random weights: quick, and as real as any other to diffusers."""
    return tiny_base("sd15")


@pytest.fixture(scope="session")
def fast(random_base: Path) -> list[str]:
    """Overrides that make a whole run take seconds, on the random base."""
    values = {
        "base.path": random_base, "fit.steps": 8, "fit.checkpoint_every": 4, "fit.batch_size": 2, "fit.rank": 4,
        "fit.alpha": 4, "fit.wordings": 2, "fit.prior_batch": 1, "fit.prior_rows": 8, "fit.prior_pictures": 2,
        "evaluate.seeds": 1, "evaluate.sampling_steps": 2, "evaluate.select_prompts": 2,
        "evaluate.bootstrap": 100, "evaluate.strengths": "[]",  # a random base never listens
    }  # fmt: skip
    return [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A prepared imagefolder: see `write_samples`."""
    return write_samples(tmp_path)


def write_samples(folder: Path) -> Path:
    """A prepared imagefolder of two pictures: a ramp, which is not its own mirror image, and noise."""
    (folder / "images").mkdir()
    ramp = np.tile(np.arange(128, dtype=np.uint8)[None, :, None], (128, 1, 3))
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    text = "photo of ohwx person, turned left"
    rows = []
    for index, picture in enumerate((ramp, noise)):
        Image.fromarray(picture).save(folder / f"images/{index}.png")
        rows.append({"file_name": f"images/{index}.png", "text": text, "face_box": [0, 0, 0.25, 1]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def interrupted_at(step: int | None) -> Console:
    """A quiet console that is interrupted when that many steps of the fit are made."""
    console = Console(quiet=True)

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Tick]:
        made = 0

        def tick(done: int = 1, note: str = "") -> None:
            nonlocal made
            made += done
            if label == "fitting" and done and made == step:
                raise KeyboardInterrupt

        yield tick

    console.progress = progress  # type: ignore[method-assign]
    return console


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command inside this process, from tmp_path; every photos folder there must come out as it went in.

    Exit 1 is a bug and fails the test.
    """
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Completed:
        from trainer.cli import app

        before = {folder: hashes(folder) for folder in tmp_path.rglob("photos")}
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert {folder: hashes(folder) for folder in before} == before
        assert done.exit_code != 1, done.stderr
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m trainer` as a user does, in a process of its own."""

    def start(cwd: Path, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", *map(str, arguments)], cwd=cwd, env={**os.environ, **env}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def command(spawn: Callable[..., subprocess.Popen[str]]) -> Command:
    """Runs `python -m trainer` to its end."""

    def call(cwd: Path, *arguments: str | Path, **env: str) -> Completed:
        process = spawn(cwd, *arguments, **env)
        stdout, stderr = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return call


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, demo_files: list[Path], fast: list[str], command: Command, weights: Path
) -> dict[str, Any]:
    """One whole run of a subject called `zelda`, made once: `home`, its `arguments` and the `result` it printed.

    A test that changes anything works on a copy: see `retrained`.
    """
    home = tmp_path_factory.mktemp("trained")
    (home / "subjects/zelda/photos").mkdir(parents=True)
    for index, file in enumerate(demo_files[:14]):
        shutil.copyfile(file, home / f"subjects/zelda/photos/holiday{index:02d}.jpg")
    arguments = ["train", "zelda", "--json", *fast]
    done = command(home, *arguments)
    assert done.returncode == 0, done.stderr
    return {"home": home, "arguments": arguments, "result": json.loads(done.stdout)["result"], "stdout": done.stdout}


@pytest.fixture
def copied(trained: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the finished run's home that the test may change; the same command reuses what is left there."""
    home = tmp_path / "home"
    shutil.copytree(trained["home"], home, symlinks=True)
    return home


@pytest.fixture(scope="session")
def write_imagefolder() -> Callable[[Path, list[Path]], Path]:
    """Writes photos of women into a new imagefolder, the simplest layout of the base's training pictures."""

    def write(folder: Path, files: list[Path]) -> Path:
        folder.mkdir()
        for index, file in enumerate(files):
            Image.open(file).convert("RGB").resize((128, 128)).save(folder / f"{index}.png")
        rows = [json.dumps({"file_name": f"{index}.png", "sex": "female"}) for index in range(len(files))]
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
        return folder

    return write


def framed_of(path: Path, detector: Detector) -> Framed:
    """The largest face of a photo, in the base's framing."""
    picture = open_picture(path, 10**8).rgb_u8
    face = max(detector.detect(picture), key=lambda found: found.width)
    return Framed(face.box, portrait_square(face.landmarks))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
