"""Training pictures of the base, in the simplest layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def write_imagefolder() -> Callable[[Path, list[Path]], Path]:
    """Writes photos of women into a new imagefolder, 128 px each."""

    def write(folder: Path, files: list[Path]) -> Path:
        folder.mkdir()
        for index, file in enumerate(files):
            Image.open(file).convert("RGB").resize((128, 128)).save(folder / f"{index}.png")
        rows = [json.dumps({"file_name": f"{index}.png", "sex": "female"}) for index in range(len(files))]
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
        return folder

    return write
