"""A base by its hub name, from the hub client's own cache and without a network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
import json, sys
from trainer.bases.base import get_base
from trainer.errors import MissingPartError
base = get_base("sd15", "someone/tiny")
pinned = get_base("sd15", "someone/tiny", sys.argv[1])
try:
    get_base("sd15", "someone/else")
except MissingPartError as error:
    print(json.dumps([base.size_px, base.folder, base.sha256, pinned.sha256, error.message.splitlines()[0]]))
"""


def test_its_hash_is_the_commit_that_was_loaded(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub/models--someone--tiny"
    shutil.copytree(random_base, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-c", CODE, COMMIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size_px, folder, newest, pinned, message = json.loads(done.stdout.splitlines()[-1])
    assert (size_px, folder, newest, pinned) == (128, "someone/tiny", COMMIT, COMMIT)
    assert message.startswith("base someone/else cannot be loaded")
