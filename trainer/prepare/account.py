"""The end that every kind of album comes to: what is not used and why, whether enough is left, and the seal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.album import Album
from trainer.errors import PhotosError
from trainer.prepare.seal import deal
from trainer.prepare.settings import Settings
from trainer.records import Rejection, Split
from trainer.run import write_json, write_lines


def account_for(
    album: Album, rejected: Sequence[Rejection], used: Sequence[Mapping[str, Any]], least: int, more: str, folder: Path
) -> list[Rejection]:
    """Write rejected.jsonl, and photos.jsonl of the `used` rows; returns all rejections, those of the album too.

    Raises PhotosError, with every reason, when fewer than `least` are used; `more` says of what to add some.
    """
    refused = sorted([*album.refused, *rejected], key=lambda rejection: rejection.file)
    write_lines(folder / "rejected.jsonl", [asdict(rejection) for rejection in refused])
    write_lines(folder / "photos.jsonl", [dict(row) for row in used])
    if len(used) < least:
        raise PhotosError(
            f"{len(used)} of {total(album)} photos can be used, at least {least} are needed"
            + "".join(f"\n  {r.file}: {r.reason} ({r.code})" for r in refused),
            f"add more {more}, at least 12" + (f"; {refused[0].hint}" if refused else ""),
        )
    return refused


def total(album: Album) -> int:
    """Files of the album, those refused before they were opened too."""
    return len(album.photos) + len(album.refused)


def seal(groups: Sequence[tuple[str, ...]], sha256: Mapping[str, str], settings: Settings, folder: Path) -> Split:
    """Deal the groups, or leave all to the score where nothing is fitted; writes split.json.

    Raises PhotosError for too few different shots.
    """
    if settings.seal_all:
        split = Split((), (), tuple(sorted(name for group in groups for name in group)), tuple(sorted(groups)))
    else:
        split = deal(groups, sha256, settings.select_share, settings.report_share)
    write_json(folder / "split.json", asdict(split))
    return split
