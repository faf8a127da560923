"""Every photo is looked at once: what was seen is kept whole, found again, and made anew where it is damaged."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, hashes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.album import CACHE, LOOKS, read_album
from trainer.faces.base import get_detector, get_embedder
from trainer.pictures import UnusablePicture
from trainer.prepare.looks import Look, Looks, Sight, entry_text, look, read_entry
from trainer.records import PhotoFile

KEY = "0" * 64


@pytest.fixture(scope="module")
def sight(weights: Path) -> Sight:
    return Sight(get_detector(weights), get_embedder("dlib", weights), 10**8)


def files(photos: Path) -> tuple[PhotoFile, ...]:
    return read_album(photos, photos.parent / CACHE).photos


def plain(seen: Look | UnusablePicture) -> dict[str, Any]:
    """What was seen as text and numbers, to compare two of them bit for bit."""
    said: dict[str, Any] = json.loads(entry_text(seen, KEY))["seen"]
    return said


def all_seen(sight: Sight, photos: Path, cache: Path) -> dict[str, dict[str, Any]]:
    return {file.name: plain(seen) for file, seen in Looks(sight, cache).through(files(photos))}


def entries(cache: Path) -> dict[str, int]:
    """When each entry was written."""
    return {path.name: path.stat().st_mtime_ns for path in (cache / LOOKS).iterdir()}


def test_threads_see_what_one_look_after_another_sees(photos: Path, sight: Sight, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes((photos / "holiday00.jpg").read_bytes()[:5000])
    (photos / "notes.jpg").write_text("no picture")
    Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save(photos / "wall.png")
    one_by_one = {}
    for file in files(photos):
        try:
            one_by_one[file.name] = plain(look(file.path, sight))
        except UnusablePicture as problem:
            one_by_one[file.name] = plain(problem)
    first = all_seen(sight, photos, tmp_path / "cache")
    assert first == one_by_one
    assert list(first) == sorted(first)
    assert first["broken.jpg"]["problem"][0] == "truncated"
    assert first["notes.jpg"]["problem"][0] == "not-a-picture"
    assert first["wall.png"]["faces"] == []
    assert all_seen(sight, photos, tmp_path / "cache") == first


def test_one_photo_more_costs_one_look_more(photos: Path, sight: Sight, tmp_path: Path, demo_files: list[Path]) -> None:
    cache = tmp_path / "cache"
    all_seen(sight, photos, cache)
    before = entries(cache)
    shutil.copyfile(demo_files[20], photos / "another.jpg")
    shutil.copyfile(photos / "holiday03.jpg", photos / "copy of 03.jpg")
    (photos / "holiday05.jpg").rename(photos / "renamed.jpg")
    all_seen(sight, photos, cache)
    after = entries(cache)
    assert len(before) == 12
    assert {name: after[name] for name in before} == before
    assert len(after) == 13  # a copy is the same photo, and so is one with another name


def test_what_is_remembered_is_not_looked_for_again(photos: Path, sight: Sight, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = all_seen(sight, photos, cache)
    path = next((cache / LOOKS).iterdir())
    key = path.stem
    seen = read_entry(path, key)
    assert isinstance(seen, Look)
    path.write_text(entry_text(replace(seen, second=12345), key))  # whole, but no look would find this
    again = all_seen(sight, photos, cache)
    assert [name for name in first if again[name]["second"] == 12345 != first[name]["second"]] != []


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b"[[[[", b'{"sha256": 1, "seen": {}}', bytes(2**20 + 1)])
def test_a_damaged_entry_is_made_anew(damage: bytes, photos: Path, sight: Sight, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for path in sorted(photos.iterdir())[2:]:
        path.unlink()
    first, whole = all_seen(sight, photos, cache), hashes(cache)
    path = next((cache / LOOKS).iterdir())
    path.write_bytes(damage)
    assert all_seen(sight, photos, cache) == first
    assert hashes(cache) == whole


def test_another_s_entry_is_not_taken(photos: Path, sight: Sight, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = all_seen(sight, photos, cache)
    a, b = sorted((cache / LOOKS).iterdir())[:2]
    shutil.copyfile(a, b)
    assert all_seen(sight, photos, cache) == first


def test_other_models_or_limits_look_anew(photos: Path, sight: Sight, weights: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = all_seen(sight, photos, cache)
    other = all_seen(replace(sight, gate=get_embedder("onnx", weights)), photos, cache)
    assert {len(seen["faces"][0]["embedding"]) for seen in first.values()} == {128}
    assert {len(seen["faces"][0]["embedding"]) for seen in other.values()} == {512}
    bounded = all_seen(replace(sight, max_pixels=1000), photos, cache)
    assert {seen["problem"][0] for seen in bounded.values()} == {"too-large"}


def test_photos_that_are_gone_are_forgotten(photos: Path, sight: Sight, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    all_seen(sight, photos, cache)
    for path in sorted(photos.iterdir())[:5]:
        path.unlink()
    (cache / LOOKS / ".left.json.part").write_text("of a killed run")
    all_seen(sight, photos, cache)
    assert len(entries(cache)) == 7


def test_what_the_disk_refuses_today_is_tried_again(photos: Path, sight: Sight, tmp_path: Path) -> None:
    found, gone = files(photos), photos / "holiday04.jpg"
    gone.rename(tmp_path / "aside.jpg")
    seen = {file.name: seen for file, seen in Looks(sight, tmp_path / "cache").through(found)}
    problem = seen["holiday04.jpg"]
    assert isinstance(problem, UnusablePicture)
    assert problem.code == "unreadable"
    (tmp_path / "aside.jpg").rename(gone)
    assert "problem" not in all_seen(sight, photos, tmp_path / "cache")["holiday04.jpg"]


def test_an_entry_holds_numbers_and_no_name(photos: Path, sight: Sight, tmp_path: Path) -> None:
    all_seen(sight, photos, tmp_path / "cache")
    for path in (tmp_path / "cache" / LOOKS).iterdir():
        said = json.loads(path.read_bytes())
        assert set(said["seen"]) == {"key", "size", "phash", "second", "faces"}
        assert set(said["seen"]["faces"][0]) == {"box", "landmarks", "score", "embedding", "quality"}
        assert "holiday" not in path.read_text()


JUNK = st.binary(min_size=1, max_size=4) | st.text("0123456789,", min_size=1, max_size=4).map(str.encode)
HITS = st.lists(st.tuples(st.integers(0, 2**16), JUNK), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hits=HITS, kept=st.one_of(st.none(), st.integers(0, 2**12)))
def test_no_damage_makes_another_look(
    hits: list[tuple[int, bytes]], kept: int | None, sight: Sight, demo_files: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "entry.json"
    if not file.exists():
        (tmp_path / "whole").write_text(entry_text(look(demo_files[0], sight), KEY))
    whole = (tmp_path / "whole").read_bytes()
    data = bytearray(whole)
    for place, junk in hits:
        start = place % len(data)
        data[start : start + len(junk)] = junk
    file.write_bytes(data[:kept])
    found = read_entry(file, KEY)
    assert found is None or plain(found) == json.loads(whole)["seen"]


def results(runs: Path) -> dict[str, str]:
    """The stage's own files but `stage.json`, which holds the seconds it took."""
    stage = (runs / "alice/latest").resolve() / "1_prepare"
    return {name: value for name, value in hashes(stage).items() if name != "stage.json"}


def test_a_killed_prepare_goes_on_where_it_stopped(
    photos: Path, demo_files: list[Path], fast: list[str], tmp_path: Path, cli: Command,
    spawn: Callable[..., subprocess.Popen[str]], weights: Path,
) -> None:  # fmt: skip
    for index, file in enumerate(demo_files[12:24] * 2):
        with Image.open(file) as image:  # large enough that looking takes a while
            image.resize((1500, 1500)).rotate(index // 12).save(photos / f"large{index:02d}.jpg", quality=90 - index)
    for index in range(4):
        (photos / f"broken{index}.jpg").write_bytes((photos / "large00.jpg").read_bytes()[: 20_000 + index])
    arguments = ["prepare", "alice", "--photos", "photos", "--json", *fast, "--out"]
    done = cli(*arguments, "whole")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["result"]["stages"]["1_prepare"]
    assert (facts["photos"], facts["rejected"]["truncated"]) == (40, 4)

    cache = tmp_path / "killed/alice" / CACHE
    process = spawn(tmp_path, *arguments, "killed")
    deadline = time.monotonic() + 240
    while not (cache / LOOKS).is_dir() or len(list((cache / LOOKS).glob("[!.]*"))) < 8:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {name: at for name, at in entries(cache).items() if not name.startswith(".")}
    assert 8 <= len(kept) < 40

    assert cli(*arguments, "killed").returncode == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    after = entries(cache)
    assert {name: after[name] for name in kept} == kept
    assert len(after) == 40
    assert cli(*arguments, "killed", "--fresh").returncode == 0
    assert not set(entries(cache).values()) & set(after.values())
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_quality_numbers_survive_the_way_through_an_entry(sight: Sight, demo_files: list[Path], tmp_path: Path) -> None:
    seen = look(demo_files[1], sight)
    (tmp_path / "entry").write_text(entry_text(seen, KEY))
    found = read_entry(tmp_path / "entry", KEY)
    assert isinstance(found, Look)
    assert asdict(found.faces[0].quality) == asdict(seen.faces[0].quality)
    assert found.faces[0].face.box == seen.faces[0].face.box
    np.testing.assert_array_equal(found.faces[0].embedding, seen.faces[0].embedding)
    np.testing.assert_array_equal(found.faces[0].face.landmarks, seen.faces[0].face.landmarks)
    assert found.faces[0].embedding.dtype == np.float32
