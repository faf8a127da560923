"""Who of a photo is the person: the album's consensus, or a reference photo, tells among all faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from trainer.faces.align import portrait_square
from trainer.pictures import UnusablePicture
from trainer.prepare.doubts import doubts
from trainer.prepare.framing import FACE_ALONE, Framings, framings_of, outside_share, portrait_frame
from trainer.prepare.identity import Consensus, consensus_of
from trainer.prepare.looks import Look, SeenFace
from trainer.prepare.quality import Limits, check_quality
from trainer.records import Floats, Photo, PhotoFile, Rejection

MIN_ALONE = 3  # photos of one face; fewer agree on nobody
FILLED = 0.01  # share of the frame beyond the border from which a photo is `edge-filled`
Seen = Sequence[tuple[PhotoFile, Look]]


@dataclass(frozen=True, slots=True)
class Found:
    """The photos of the person, why the others are not used, and what is unclear about who that is, in words."""

    photos: list[Photo]
    rejected: list[Rejection]
    doubts: list[str]


def find_person(
    seen: Seen, limits: Limits, same_person: float, anchor: Floats | None = None, asked: Framings = FACE_ALONE
) -> Found:
    """The person's face in every photo; `anchor` is the gate's (d,) unit vector of a reference face.

    Photos of one clear face say who the person is; then all faces of the others are compared.
    """
    seen = [(file, _sure(look, limits)) for file, look in seen]
    alone = [one for _, look in seen if (one := dominant_face(look, limits)) and _is_clear(one, limits)]
    if anchor is not None and len(alone) < MIN_ALONE:
        alone = [one for _, look in seen for one in look.faces if _is_clear(one, limits)]
    known = anchor is not None or len(alone) >= MIN_ALONE
    person = consensus_of([one.embedding for one in alone], same_person, anchor) if known else None
    photos, rejected, strangers = [], [], []
    beside = 0
    for file, look in seen:
        try:
            photos.append(_photo_of(file, look, person, limits, asked))
        except UnusablePicture as problem:
            rejected.append(Rejection(file.name, problem.code, problem.reason, problem.hint))
            strangers += [look.faces[0].embedding] if problem.code == "other-person" else []
            beside += problem.code == "look-alikes"
    if person is None:
        return Found(photos, rejected, [])
    beside += sum("look-alikes" in photo.warnings for photo in photos)
    unclear = doubts(
        [photo.embedding for photo in photos], strangers, person.gap, same_person,
        seconds=[photo.second for photo in photos], beside=beside, referred=anchor is not None,
    )  # fmt: skip
    return Found(photos, rejected, unclear)


def subject_in(look: Look, person: Consensus | None, limits: Limits) -> tuple[SeenFace, tuple[str, ...]]:
    """The person's face, and codes of what is only warned of.

    Raises UnusablePicture: `no-face`, `several-faces` (nobody is known to compare with), `other-person`, `look-alikes`.
    """
    if not look.faces:
        raise UnusablePicture("no-face", "no face was found", "use photos in which the face is large and uncovered")
    if person is None:
        only = dominant_face(look, limits)
        if only is None:
            raise UnusablePicture(
                "several-faces", f"{len(look.faces)} faces, and too few photos of one alone to know whose to take",
                f"add {MIN_ALONE} photos of the person alone, or pass --reference PHOTO",
            )  # fmt: skip
        return only, ()
    widest = look.faces[0]
    large = [one for one in look.faces if one is widest or one.face.width >= limits.min_face_px]
    alike = [one for one in large if person.likeness(one.embedding) >= person.threshold]
    if not alike:
        check_quality(widest.quality, limits)  # a blurred face is nobody's: that reason says more
        best = max(person.likeness(one.embedding) for one in large)
        raise UnusablePicture(
            "other-person", f"likeness {best:.2f} to {person.whom}, at least {person.threshold:.2f} is needed",
            "remove it, or lower prepare.same_person if it is the same person",
        )  # fmt: skip
    return _one_of(alike, person, limits)


def _one_of(alike: Sequence[SeenFace], person: Consensus, limits: Limits) -> tuple[SeenFace, tuple[str, ...]]:
    """The widest of those who look like the person, unless another is nearly as wide."""
    near = [one for one in alike if one.face.width >= limits.second_face * alike[0].face.width]
    if len(near) == 1:
        return near[0], ()
    if limits.on_look_alikes == "reject":
        raise UnusablePicture(
            "look-alikes", f"{len(near)} faces in it look like the person", "crop the photo to the right one"
        )
    best = max(near, key=lambda one: person.likeness(one.embedding))
    return best, ("look-alikes",) if limits.on_look_alikes == "warn" else ()


def _photo_of(file: PhotoFile, look: Look, person: Consensus | None, limits: Limits, asked: Framings) -> Photo:
    """Raises UnusablePicture for a photo that shows nobody, somebody else, or the person badly."""
    one, warnings = subject_in(look, person, limits)
    warnings += check_quality(one.quality, limits)
    near = limits.second_face * one.face.width
    others = [other.face.landmarks for other in look.faces if other is not one and other.face.width >= near]
    frame = portrait_frame(one.face.landmarks, others, *look.size)
    outside = outside_share(portrait_square(one.face.landmarks), *look.size)
    filled = outside_share(frame, *look.size)
    if filled > FILLED:
        warnings += ("edge-filled",)
    likeness = None if person is None else round(person.likeness(one.embedding), 4)
    measured = {**asdict(one.quality), "outside": round(outside, 4), "filled": round(filled, 4), "likeness": likeness}
    return Photo(
        file.name, file.path, file.sha256, look.phash, look.second, one.face, one.embedding, frame, measured, warnings,
        framings_of(asked, frame, one.face.landmarks, others, *look.size),
    )  # fmt: skip


def dominant_face(look: Look, limits: Limits) -> SeenFace | None:
    """The photo's one sure face; much narrower ones beside it are passers-by. None where there is none, or several."""
    faces = _sure(look, limits).faces
    if not faces or (len(faces) > 1 and faces[1].face.width >= limits.second_face * faces[0].face.width):
        return None
    return faces[0]


def _sure(look: Look, limits: Limits) -> Look:
    """The same look with only the faces that the detector is sure of."""
    return replace(look, faces=tuple(one for one in look.faces if one.face.score >= limits.min_detection))


def _is_clear(one: SeenFace, limits: Limits) -> bool:
    try:
        check_quality(one.quality, limits)
    except UnusablePicture:
        return False
    return True
