"""Deal whole groups of near-duplicates to fit, select and report before anything is made of the photos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from trainer.errors import PhotosError
from trainer.records import Split

MIN_SEALED = 2
MIN_SHOTS = 3  # fewer are no person but a picture
MIN_PHOTOS = 8  # fewer leave too little to fit on once some are sealed


def deal(
    groups: Sequence[tuple[str, ...]], sha256: Mapping[str, str], select_share: float, report_share: float
) -> Split:
    """The split: every group whole in one role, at least two photos sealed for select and for report.

    Groups are ordered by the hash of their photos' hashes, so neither file names nor one more photo reshuffle the rest.
    Where there are fewer than `MIN_PHOTOS`, or too few shots to seal any, all are to fit on and none is sealed.

    Raises PhotosError for fewer than `MIN_SHOTS` groups.
    """
    total, ordered = sum(len(group) for group in groups), tuple(sorted(groups))
    if len(groups) < MIN_SHOTS:
        raise PhotosError(
            f"the {total} photos are only {len(groups)} different shots: near-duplicates count as one",
            f"add photos from other days, places and angles: {MIN_SHOTS} shots at least, {MIN_PHOTOS} for a score",
        )
    wanted = {
        "report": max(MIN_SEALED, round(report_share * total)),
        "select": max(MIN_SEALED, round(select_share * total)),
    }
    dealt: dict[str, list[str]] = {"report": [], "select": [], "fit": []}
    for group in sorted(groups, key=lambda names: _order(names, sha256)):
        dealt[_role_for(len(group), dealt, wanted)] += group
    scarce = len(dealt["fit"]) < max(MIN_SEALED, total // 4) or any(len(dealt[role]) < MIN_SEALED for role in wanted)
    if total < MIN_PHOTOS or scarce:
        return Split(tuple(sorted(name for group in groups for name in group)), (), (), ordered)
    fit, select, report = (tuple(sorted(dealt[role])) for role in ("fit", "select", "report"))
    return Split(fit, select, report, ordered)


def _role_for(size: int, dealt: Mapping[str, Sequence[str]], wanted: Mapping[str, int]) -> str:
    """The first sealed role that still has room for this many; else fit. One photo over is room enough."""
    for role, count in wanted.items():
        if len(dealt[role]) < count and len(dealt[role]) + size <= count + 1:
            return role
    return "fit"


def _order(names: Sequence[str], sha256: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(sorted(sha256[name] for name in names)).encode()).hexdigest()
