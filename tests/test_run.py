"""The run folder: stages are whole or not there, changed ones are noticed, equal inputs are never computed twice."""

import errno
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import IntegrityError, MissingPartError, UsageError
from trainer.run import (
    Run,
    canonical_json,
    exclusive,
    fingerprint_of,
    open_run,
    read_stage,
    saying_disk_full,
    write_json,
    write_text,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_run(tmp_path / "alice", "mine", {"seed": 0})


def finish(run: Run, name: str = "1_prepare", fingerprint: str = "f", text: str = "made") -> None:
    part = run.part(name, fingerprint)
    (part / "inner").mkdir()
    (part / "inner/file.txt").write_text(text)
    run.finish(name, fingerprint, 1.5, {"photos": 3})


@given(st.dictionaries(st.text(), plain, max_size=6))
def test_the_fingerprint_does_not_hang_on_the_order_of_keys(values: dict[str, Any]) -> None:
    turned = dict(reversed(values.items()))
    assert fingerprint_of(inputs=values) == fingerprint_of(inputs=turned)
    assert json.loads(canonical_json(values)) == values


@given(plain, plain)
def test_other_inputs_have_another_fingerprint(a: Any, b: Any) -> None:
    assert (fingerprint_of(inputs=a) == fingerprint_of(inputs=b)) == (canonical_json(a) == canonical_json(b))


def test_numbers_that_are_none_are_never_written(tmp_path: Path) -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "card.json", {"mean": value})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "first")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "second \udce9")
    assert (tmp_path / "a.txt").read_text() == "first"


def test_a_lock_has_one_folder_and_latest_points_to_it(tmp_path: Path) -> None:
    first = open_run(tmp_path, "mine", {"seed": 0})
    assert open_run(tmp_path, "mine", {"seed": 0}) == first
    second = open_run(tmp_path, "mine", {"seed": 1})
    assert second != first
    assert (tmp_path / "latest").resolve() == second.folder
    assert os.readlink(tmp_path / "latest") == second.folder.name
    assert json.loads((second.folder / "lock.json").read_text()) == {"seed": 1}


def test_a_stage_is_there_when_it_is_whole_and_only_then(run: Run) -> None:
    part = run.part("1_prepare", "f")
    (part / "file.txt").write_text("half")
    assert run.finished("1_prepare", "f") is None
    shutil.rmtree(part)
    finish(run)
    stage = run.finished("1_prepare", "f")
    assert stage is not None
    assert (stage.seconds, stage.facts) == (1.5, {"photos": 3})
    assert sorted(path.name for path in run.folder.iterdir()) == ["1_prepare", "lock.json"]
    assert run.finished("1_prepare", "another") is None


def test_a_part_is_kept_for_the_same_inputs_and_dropped_for_others(run: Run) -> None:
    (run.part("2_fit", "f") / "state").write_text("half way")
    assert (run.part("2_fit", "f") / "state").read_text() == "half way"
    assert not (run.part("2_fit", "g") / "state").exists()


def test_a_new_stage_takes_the_place_of_the_old(run: Run) -> None:
    finish(run, text="old")
    finish(run, fingerprint="g", text="new")
    assert (run.folder / "1_prepare/inner/file.txt").read_text() == "new"
    assert run.finished("1_prepare", "f") is None
    assert run.finished("1_prepare", "g") is not None


@pytest.mark.parametrize("harm", ["change", "lose", "unreadable"])
def test_a_stage_that_was_changed_is_noticed(harm: str, run: Run) -> None:
    finish(run)
    file = run.folder / "1_prepare/inner/file.txt"
    if harm == "change":
        file.write_text("made by hand")
    elif harm == "lose":
        file.unlink()
    else:
        file = run.folder / "1_prepare/stage.json"
        file.write_text('{"stage": "1_prepare"')
    with pytest.raises(IntegrityError) as caught:
        read_stage(run.folder / "1_prepare")
    assert str(file) in caught.value.message
    assert str(run.folder / "1_prepare") in caught.value.hint


def test_a_sibling_run_shares_its_stage(tmp_path: Path) -> None:
    finish(open_run(tmp_path, "mine", {"seed": 0}))
    later = open_run(tmp_path, "mine", {"seed": 1})
    stage = later.finished("1_prepare", "f")
    assert stage is not None
    assert stage.folder == later.folder / "1_prepare"
    assert (stage.folder / "inner/file.txt").read_text() == "made"


def test_a_changed_stage_of_other_inputs_stops_nobody(tmp_path: Path) -> None:
    old = open_run(tmp_path, "mine", {"seed": 0})
    finish(old, fingerprint="old")
    (old.folder / "1_prepare/inner/file.txt").unlink()
    later = open_run(tmp_path, "mine", {"seed": 1})
    assert later.finished("1_prepare", "new") is None


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with exclusive(tmp_path / "alice"):
        with pytest.raises(UsageError, match="another run"), exclusive(tmp_path / "alice"):
            pass
        with exclusive(tmp_path / "bob"):
            pass
    with exclusive(tmp_path / "alice"):
        pass


def test_a_full_disk_is_a_missing_part_and_other_errors_stay(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingPartError, match=r"no space left .*not yet made") as caught,
        saying_disk_full(tmp_path / "not yet made"),
    ):
        raise OSError(errno.ENOSPC, "no space")
    assert "run the same command again" in caught.value.hint
    with pytest.raises(OSError, match="broken"), saying_disk_full(tmp_path):
        raise OSError(errno.EIO, "broken")


def test_events_are_lines_with_a_time(run: Run) -> None:
    run.event("started", stage="1_prepare")
    run.event("finished", stage="1_prepare", photos=3)
    lines = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert [(line["event"], line["stage"]) for line in lines] == [("started", "1_prepare"), ("finished", "1_prepare")]
    assert all(line["at"].endswith("+00:00") for line in lines)
