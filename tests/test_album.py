"""Folders in folders and zip archives: every picture under a stable name, hostile archives refused by the line."""

import contextlib
import io
import json
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from conftest import Command, hashes
from hypothesis import example, given
from hypothesis import strategies as st

from trainer import album, archive
from trainer.album import MAX_PHOTOS, read_album
from trainer.archive import BadArchive, open_archive
from trainer.errors import PhotosError

JPEG = b"\xff\xd8 not decoded here"


def zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as handle:
        for name, data in entries.items():
            handle.writestr(name, data)
    return path


def codes(photos: Path, cache: Path) -> dict[str, str]:
    return {one.file: one.code for one in read_album(photos, cache).refused}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good picture to stand beside the bad things."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/good.jpg").write_bytes(JPEG)
    return tmp_path / "photos"


def test_pictures_are_named_by_their_path_and_sorted(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "trip/a.png", "trip/day 2/c.heic", ".hidden.jpg", ".trash/x.jpg", "notes.txt"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "photos/album.jpg").mkdir()
    zipped(tmp_path / "photos/phone.zip", {"DCIM/a.png": b"1", "__MACOSX/DCIM/a.png": b"2", "movie.mp4": b"3"})
    found = read_album(tmp_path / "photos", tmp_path / "cache")
    assert list(found.paths()) == ["a.png", "b.JPG", "phone.zip/DCIM/a.png", "trip/a.png", "trip/day 2/c.heic"]
    assert found.paths()["trip/a.png"].read_bytes() == b"trip/a.png"
    assert found.paths()["phone.zip/DCIM/a.png"].read_bytes() == b"1"
    assert found.refused == ()


def test_an_archive_can_be_the_album_and_is_unpacked_once(tmp_path: Path) -> None:
    path = zipped(tmp_path / "album.zip", {"a.jpg": JPEG, "b/a.jpg": JPEG + b"2"})
    before = path.read_bytes()
    first = read_album(path, tmp_path / "cache").paths()
    times = [file.stat().st_mtime_ns for file in first.values()]
    assert list(first) == ["album.zip/a.jpg", "album.zip/b/a.jpg"]
    again = read_album(path, tmp_path / "cache").paths()
    assert again == first
    assert [file.stat().st_mtime_ns for file in again.values()] == times
    assert path.read_bytes() == before
    assert all(file.is_relative_to(tmp_path / "cache/unpacked") for file in first.values())


@pytest.mark.parametrize("name", ["../evil.jpg", "/tmp/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"])
def test_a_path_that_leads_out_is_refused_and_nothing_is_written_there(name: str, folder: Path, tmp_path: Path) -> None:
    zipped(folder / "bad.zip", {name: JPEG, "fine.jpg": JPEG})
    before = set(hashes(tmp_path))
    found = read_album(folder, tmp_path / "cache")
    assert [one.code for one in found.refused] == ["unsafe-path"]
    assert "bad.zip/fine.jpg" in found.paths()
    assert {path for path in hashes(tmp_path) if path not in before} == {
        str(found.paths()["bad.zip/fine.jpg"].relative_to(tmp_path))
    }


def test_links_nested_archives_and_repeated_names_are_refused(folder: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "odd.zip", "w") as handle:
        handle.writestr(link, "/etc/passwd")
        handle.writestr("inner.zip", b"PK")
        handle.writestr("twice.jpg", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            handle.writestr("twice.jpg", b"2")
    assert sorted(codes(folder, tmp_path / "cache").items()) == [
        ("odd.zip/inner.zip", "nested-archive"), ("odd.zip/link.jpg", "unsafe-path"),
        ("odd.zip/twice.jpg", "duplicate-name"),
    ]  # fmt: skip


def test_a_bomb_is_refused_before_it_is_unpacked(folder: Path, tmp_path: Path) -> None:
    zipped(folder / "bomb.zip", {"zeros.bmp": bytes(64 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert codes(folder, tmp_path / "cache") == {"bomb.zip/zeros.bmp": "too-large"}
    assert not (tmp_path / "cache").exists()


def test_an_entry_that_lies_about_its_size_is_refused(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder / "liar.zip", {"a.jpg": bytes(5000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24  # unpacked size, in the list of entries
    data[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(data)
    assert codes(folder, tmp_path / "cache") == {"liar.zip/a.jpg": "truncated"}
    assert not list(tmp_path.rglob("*.part"))


def test_an_entry_that_starts_before_the_file_is_refused(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder / "early.zip", {"a.jpg": JPEG})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x05\x06") + 16  # where the list of entries starts
    struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at)[0] + 1000)
    path.write_bytes(data)
    assert set(codes(folder, tmp_path / "cache").values()) <= {"truncated", "not-an-archive"}
    assert codes(folder, tmp_path / "cache")


def test_an_encrypted_entry_is_refused(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder / "secret.zip", {"a.jpg": JPEG})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert codes(folder, tmp_path / "cache") == {"secret.zip/a.jpg": "encrypted"}


def test_too_many_entries_are_counted_before_they_are_read(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder / "many.zip", {"a.jpg": JPEG})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x05\x06")
    data[at + 10 : at + 12] = struct.pack("<H", archive.MAX_ENTRIES + 1)
    path.write_bytes(data)
    assert codes(folder, tmp_path / "cache") == {"many.zip": "archive-too-large"}


def test_the_sum_of_all_entries_is_bounded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 25)
    zipped(folder / "sum.zip", {f"{index}.jpg": bytes(10) for index in range(4)})
    assert codes(folder, tmp_path / "cache") == {
        "sum.zip/2.jpg": "archive-too-large", "sum.zip/3.jpg": "archive-too-large",
    }  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"PK", b"no archive at all" * 100])
def test_what_is_no_archive_is_a_line(data: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.zip").write_bytes(data)
    assert codes(folder, tmp_path / "cache") == {"broken.zip": "not-an-archive"}


HITS = st.lists(st.tuples(st.integers(0, 2**12), st.binary(min_size=1, max_size=6)), max_size=5)


@example(hits=[(191, b"\0")], kept=None)  # a name that begins with its end
@given(hits=HITS, kept=st.one_of(st.none(), st.integers(1, 600)))
def test_damaged_archives_unpack_inside_their_folder_or_say_why(
    hits: list[tuple[int, bytes]], kept: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("zip")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as handle:
        for name in ("a.jpg", "b/c.png", "../d.jpg"):
            handle.writestr(name, name * 20)
    data = bytearray(buffer.getvalue())
    for place, junk in hits:
        start = place % len(data)
        data[start : start + len(junk)] = junk
    (home / "a.zip").write_bytes(bytes(data[:kept]))
    with contextlib.suppress(BadArchive), open_archive(home / "a.zip") as opened:  # anything else fails the test
        for entry in opened.entries():
            with contextlib.suppress(BadArchive):
                assert opened.unpack(entry, home / "out").parent == home / "out"
    assert {path.name for path in home.iterdir()} <= {"a.zip", "out"}


def test_places_without_pictures_and_with_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PhotosError, match="no such folder"):
        read_album(tmp_path / "nowhere", tmp_path)
    with pytest.raises(PhotosError, match="no pictures in it"):
        read_album(tmp_path, tmp_path / "cache")
    for index in range(MAX_PHOTOS + 1):
        (tmp_path / f"{index}.jpg").touch()
    with pytest.raises(PhotosError, match=f"more than {MAX_PHOTOS} pictures"):
        read_album(tmp_path, tmp_path / "cache")
    monkeypatch.setattr(album, "MAX_FILES", 100)
    with pytest.raises(PhotosError, match="more than 100 files"):
        read_album(tmp_path, tmp_path / "cache")


def test_a_nested_and_zipped_album_is_scored_to_its_end(
    photos: Path, tmp_path: Path, cli: Command, fast: list[str], weights: Path
) -> None:
    files = sorted(photos.iterdir())
    (photos / "2019/summer").mkdir(parents=True)
    for path in files[:4]:
        path.rename(photos / "2019/summer" / path.name)
    zipped(photos / "phone.zip", {f"DCIM/{path.name}": path.read_bytes() for path in files[4:9]})
    for path in files[4:9]:
        path.unlink()
    (photos / "broken.zip").write_bytes(b"PK")
    done = cli("evaluate", "alice", "--photos", "photos", "--json", *fast)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["result"]["stages"]["1_prepare"]
    assert facts["photos"] == 13
    assert facts["rejected"] == {"not-an-archive": 1}
    split = json.loads((tmp_path / "runs/alice/latest/1_prepare/split.json").read_text())
    dealt = {*split["fit"], *split["select"], *split["report"]}
    assert len(dealt) == 12
    assert {name.rpartition("/")[0] for name in dealt} == {"", "2019/summer", "phone.zip/DCIM"}
    cli("forget", "alice", "--yes")
    assert not (tmp_path / "runs/alice").exists()
