"""Upload of named files to the Hugging Face hub; nothing else of this project sends anything anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from trainer.adapter import read_adapter
from trainer.errors import MissingPartError, UsageError
from trainer.layouts.header import SUFFIX
from trainer.run import sha256_of

HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]  # of the client that the hub's library uses
PAPERS = ("README.md", "manifest.json")  # what goes along with adapters


def listing(repo: str, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What an upload would send: `path`, `name` in the repository, `bytes`, `sha256`, in that order of the paths.

    A folder stands for the adapters, model card and manifest in it. Every adapter is read first.

    Raises:
        UsageError: for a repository's name that cannot be, and for a file of another kind: photos never go out here.
        IntegrityError: for an adapter that is not whole.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"{repo}: {error}", "name it as OWNER/NAME") from None
    files = [file for path in paths for file in (_papers(path) if path.is_dir() else [path])]
    names = [file.name for file in files]
    if not files or len(set(names)) != len(names):
        raise UsageError("no files, or two of one name", "name the adapter files, or the folder 4_export of a run")
    for file in files:
        if not file.is_file():
            raise UsageError(f"{file}: no such file", "name the adapter files, or the folder 4_export of a run")
        if file.suffix == SUFFIX:
            read_adapter(file)
        elif file.name not in PAPERS:
            hint = f"push {SUFFIX} files, {' and '.join(PAPERS)}"
            raise UsageError(f"{file} is no adapter, model card or manifest", hint)
    return [{"path": str(f), "name": f.name, "bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in files]


def upload(repo: str, files: Sequence[dict[str, Any]], public: bool) -> str:
    """Send the listed files in one commit and return its address; the repository is made where there is none.

    Raises MissingPartError when the hub does not answer or does not know the user.
    """
    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=file["name"], path_or_fileobj=file["path"]) for file in files]
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        done = api.create_commit(repo, operations, commit_message="Add a likeness adapter")
    except (HTTP_ERROR, OSError) as error:  # no token and offline mode are OSErrors
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingPartError(f"nothing was uploaded to {repo}: {said}", "log in with `hf auth login`") from None
    return str(done.commit_url)


def _papers(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.iterdir()) if path.suffix == SUFFIX or path.name in PAPERS]
    return [path for path in found if not path.name.startswith(".")]
