"""Shared fixtures: the real model files, fetched once into the user's cache."""

from pathlib import Path

import pytest

from trainer.weights import cache_folder, fetch


@pytest.fixture(scope="session")
def weights() -> Path:
    folder = cache_folder()
    fetch(folder)
    return folder
