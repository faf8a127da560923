"""The seal: once the photos are dealt, nothing before the evaluation can read a sealed one, and nothing tries to."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.console import Console
from trainer.errors import PhotosError
from trainer.pipeline import Pipeline
from trainer.prepare import account
from trainer.recipe import load_recipe
from trainer.records import Split
from trainer.subject import find_subject


class Vault:
    """Takes the photos of these roles away as soon as they are dealt, and puts them back."""

    def __init__(self, photos: Path, roles: tuple[str, ...]) -> None:
        self.photos, self.roles, self.kept = photos, roles, dict[Path, bytes]()

    def deal(self, *arguments: Any) -> Split:
        split = dealt(*arguments)
        for name in (name for role in self.roles for name in getattr(split, role)):
            file = self.photos / name
            self.kept[file] = file.read_bytes()
            file.unlink()
        return split

    def open(self) -> None:
        for file, data in self.kept.items():
            file.write_bytes(data)


dealt = account.deal


def pipeline(photos: Path, fast: list[str], *more: str) -> Pipeline:
    overrides = [value for value in [*fast, *more] if value != "--set"]
    subject = find_subject("alice", photos.parent, photos)
    return Pipeline(subject, load_recipe("portrait-tiny", overrides), photos.parent / "runs", Console(quiet=True))


@pytest.mark.parametrize(
    ("roles", "more"),
    [(("select", "report"), []), (("report",), ["fit.stop_after=1", "fit.checkpoint_every=2"])],
    ids=["as it is", "with checks during the fit"],
)
def test_sealed_photos_are_gone_before_the_first_crop_and_nobody_misses_them_until_the_evaluation(
    roles: tuple[str, ...],
    more: list[str],
    photos: Path,
    fast: list[str],
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault = Vault(photos, roles)
    monkeypatch.setattr(account, "deal", vault.deal)
    fitted = pipeline(photos, fast, *more).run(until="2_fit")
    assert len(vault.kept) >= 2 * len(roles)
    assert not any(file.exists() for file in vault.kept)
    assert fitted["stages"]["2_fit"]["stopped_early"] == bool(more)
    vault.open()

    run = Path(fitted["run"])
    names = {
        role: {str(photos / name) for name in json.loads((run / "1_prepare/split.json").read_text())[role]}
        for role in roles
    }
    assert {str(file) for file in vault.kept} == set().union(*names.values())


def test_the_evaluation_does_open_them(
    photos: Path, fast: list[str], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above would prove nothing: here they are spoilt, and it is the evaluation that says so."""
    fitted = pipeline(photos, fast).run(until="2_fit")
    split = json.loads((Path(fitted["run"]) / "1_prepare/split.json").read_text())
    sealed = photos / split["report"][0]
    from trainer import jobs

    real = jobs.Jobs.evaluate

    def spoiling(self: jobs.Jobs, stages: Any) -> jobs.Job:
        job = real(self, stages)
        sealed.write_bytes(b"sealed")
        return job

    monkeypatch.setattr(jobs.Jobs, "evaluate", spoiling)
    with pytest.raises(PhotosError, match=sealed.name):
        pipeline(photos, fast).run(until="3_evaluate")
