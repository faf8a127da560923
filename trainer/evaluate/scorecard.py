"""The judge's numbers: from what was seen in the pictures to the sections of scorecard.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evaluate import calibrate, probe
from trainer.evaluate.copying import any_excess, copying_excess, nearest
from trainer.evaluate.gallery import Gallery
from trainer.evaluate.judge import Album, Seen
from trainer.evaluate.sexes import as_asked
from trainer.faces.attributes import pose
from trainer.records import Floats, Split

NO_PAIRS = "this base makes one person a picture"
NOBODY_BESIDE = "no picture shows two people, with the adapter or without"
Beside = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Reals:
    """The real photos in one embedder's eyes: those of one sealed role, and all the others.

    Attributes:
        names: the sealed photos', in the order of `sealed`.
        sealed: (m, d) unit vectors of them.
        others: (n, d) unit vectors of the other sealed role's photos, then of the fit photos.
        strangers: (k, d) unit vectors of other people, or None where the embedder has none.
    """

    split: Split
    names: tuple[str, ...]
    sealed: Floats
    others: Floats
    strangers: Floats | None

    @property
    def fitted(self) -> Floats:
        """(n, d) unit vectors of the fit photos."""
        return self.others[len(self.others) - len(self.split.fit) :]

    def ceiling(self) -> float:
        """Mean cosine between the sealed photos and all other shots of the person."""
        split, sealed = self.split, self.sealed
        rest = other_names(split, self.names)
        everyone = np.concatenate([sealed, self.others]) if len(self.others) else sealed
        return calibrate.real_ceiling(sealed @ everyone.T, self.names, self.names + rest, split.groups)

    def stranger_means(self) -> Floats:
        """(k,) mean cosine of each stranger to the sealed photos."""
        if self.strangers is None:
            return np.zeros(0, np.float32)
        means: Floats = (self.strangers @ self.sealed.T).mean(1)
        return means

    def of_ceiling(self, mean: float) -> float | None:
        """Where a mean cosine lies between floor and ceiling; None where there is no floor."""
        if self.strangers is None:
            return None
        return calibrate.of_ceiling(mean, float(self.stranger_means().mean()), self.ceiling())

    def copying(self, pictures: Seen) -> float | None:
        """The copying excess of these pictures; None where nothing is known of the fit photos."""
        split = self.split
        if not split.fit:
            return None
        return copying_excess(pictures, self.fitted, self.sealed, split.fit, split.groups)


def reals_of(split: Split, names: tuple[str, ...], album: Album, strangers: Floats | None) -> Reals:
    """The album with the photos of these names, one sealed role, on one side and all others on the other."""
    return Reals(split, names, album.of(names), album.of(other_names(split, names)), strangers)


def other_names(split: Split, names: tuple[str, ...]) -> tuple[str, ...]:
    """The photos of the other sealed role, then those to fit on."""
    return tuple(name for name in split.select + split.report if name not in names) + split.fit


def identity(adapter: Gallery, base: Gallery, reals: Reals, false_accept_rate: float, rounds: int) -> dict[str, Any]:
    """Likeness between floor and ceiling; style prompts apart."""
    plain, photos = adapter.rows(style=False), reals.sealed
    every, cohort = adapter.cosines(photos), reals.stranger_means()
    cosines, mean = every[plain], float(every[plain].mean())
    floor, ceiling = float(cohort.mean()), reals.ceiling()
    floor_base = float(base.cosines(photos)[plain].mean())
    threshold = calibrate.threshold_at(cohort, false_accept_rate)
    interval = calibrate.bootstrap_interval(cosines, rounds)
    style = every[adapter.rows(style=True)]
    return {
        "mean": mean,
        "ci95": list(interval),
        "ceiling": ceiling,
        "floor_strangers": floor,
        "floor_base": floor_base,
        "of_ceiling": calibrate.of_ceiling(mean, floor, ceiling),
        "of_ceiling_ci95": [calibrate.of_ceiling(end, floor, ceiling) for end in interval],
        "of_ceiling_base": calibrate.of_ceiling(floor_base, floor, ceiling),
        "pass_rate": float((cosines.mean(2) >= threshold).mean()),
        "threshold": threshold,
        "false_accept_rate": false_accept_rate,
        "per_photo_std": float(cosines.mean((0, 1)).std()),
        "style_mean": float(style.mean()) if style.size else None,
    }


def copying(gallery: Gallery, reals: Reals) -> dict[str, float | None]:
    """Nearest fit photo against nearest sealed photo, and nearest of all photos against how near those lie."""
    near = nearest(gallery.seen.cosines(reals.fitted)) if reals.split.fit else None
    photos, names = np.concatenate([reals.sealed, reals.others]), reals.names + other_names(reals.split, reals.names)
    return {
        "to_fit_photos": near,
        "excess": reals.copying(gallery.seen),
        "any_excess": any_excess(gallery.seen, photos, names, reals.split.groups),
    }


def leak(
    galleries: Mapping[str, Gallery], beside: Beside | None, photos: Floats, sex_line: Floats | None
) -> dict[str, Any]:
    """Likeness where the person was not asked for: without the trigger, and in whoever stands beside them.

    Also how often other people are the men and women that were asked for; null without a line between the sexes.
    """
    on, off = (float(galleries[name].cosines(photos).mean()) for name in ("leak", "base_leak"))
    said: dict[str, Any] = {"untriggered": on, "untriggered_base": off, "excess": on - off}
    sexes, sexes_base = (
        None if sex_line is None else as_asked(galleries[name], sex_line) for name in ("sexes", "base_sexes")
    )
    said |= {"sexes": sexes, "sexes_base": sexes_base, "sexes_change": compared(sexes, sexes_base)["change"]}
    if beside is None:
        return said | {"beside": None, "beside_base": None, "beside_excess": None, "beside_reason": NO_PAIRS}
    with_adapter, alone = beside
    excess = None if with_adapter is None or alone is None else with_adapter - alone
    said |= {"beside": with_adapter, "beside_base": alone, "beside_excess": excess}
    return said if excess is not None else said | {"beside_reason": NOBODY_BESIDE}


def least_alike(people: Sequence[Floats], photos: Floats) -> float | None:
    """Mean over pictures with two faces or more of the face least like the person: the other one.

    `people` holds for each picture the (faces, d) unit vectors in it. None where no picture shows two.
    """
    others = [float((vectors @ photos.T).mean(1).min()) for vectors in people if len(vectors) > 1]
    return float(np.mean(others)) if others else None


def prompt(scorer: str, scores: Sequence[float | None], base_scores: Sequence[float | None]) -> dict[str, Any]:
    """How much of what was asked is shown, with the adapter and without."""
    return {"scorer": scorer, **compared(probe.mean_score(scores), probe.mean_score(base_scores))}


def compared(adapter: float | None, base: float | None) -> dict[str, float | None]:
    """A number of the pictures with the adapter and without, and the difference where both are there."""
    change = adapter - base if adapter is not None and base is not None else None
    return {"adapter": adapter, "base": base, "change": change}


def by_prompt(gallery: Gallery, photos: Floats, scores: Sequence[float | None], rounds: int) -> list[dict[str, Any]]:
    """One row a prompt; its interval resamples its seeds and the photos."""
    cosines = gallery.cosines(photos)
    detected = gallery.seen.detected.reshape(len(gallery.prompts), -1).mean(1)
    return [
        {
            "prompt": asked.text,
            "group": asked.group,
            "identity": float(cosines[row].mean()),
            "ci95": list(calibrate.bootstrap_interval(cosines[row : row + 1], rounds)),
            "detected": float(detected[row]),
            "prompt_score": scores[row],
        }
        for row, asked in enumerate(gallery.prompts)
    ]


def by_pose(gallery: Gallery, photos: Floats) -> list[dict[str, Any]]:
    """Likeness of the pictures by the pose that the head has in them, whatever was asked for."""
    cosines = gallery.seen.cosines(photos).mean(1)
    poses = np.array([pose(face.landmarks) if face else "" for face in gallery.seen.faces])
    return [
        {"pose": name, "pictures": int((poses == name).sum()), "identity": float(cosines[poses == name].mean())}
        for name in ("facing front", "turned left", "turned right")
        if (poses == name).any()
    ]
