"""The reference photo: one picture that says whose photos these are."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import PhotosError
from trainer.pictures import UnusablePicture
from trainer.prepare.group import dominant_face
from trainer.prepare.looks import Sight, look
from trainer.prepare.quality import Limits
from trainer.records import Floats

HINT = "pass a photo that shows the person alone, the face large and uncovered, as --reference"


def reference_vector(path: Path, sight: Sight, limits: Limits) -> Floats:
    """The gate's (d,) unit vector of the photo's one face. Raises PhotosError for any other photo."""
    try:
        seen = look(path, sight)
    except UnusablePicture as problem:
        raise PhotosError(f"{path}: the reference photo cannot be used: {problem} ({problem.code})", HINT) from None
    face = dominant_face(seen, limits)
    if face is None:
        count = sum(one.face.score >= limits.min_detection for one in seen.faces)
        raise PhotosError(f"{path}: the reference photo must show one face; {count or 'none'} found", HINT)
    return face.embedding
