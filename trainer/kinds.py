"""What an adapter can be of: a person, whom faces tell, or a style or brand, which no face tells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of subject.

    Attributes:
        has_face: photos are chosen, framed and scored by the face in them.
        class_words: what it may be called beside the trigger; the first is for recipes that name none.
        learned: what the adapter is of, in words.
        rights: said where no consent.toml lies beside the photos.
        terms: what the model card says of its use.
    """

    name: str
    has_face: bool
    class_words: tuple[str, ...]
    learned: str
    rights: str
    terms: str

    @property
    def faceless(self) -> str:
        """Why its scorecard says nothing of a likeness, where it does not."""
        return f"a {self.name} has no face"


PERSON = Kind(
    "person", True, ("person", "woman", "man"), "one person", "train only a person who has agreed to it",
    """\
For pictures of this person that this person has agreed to. Not for deceiving anybody, for passing as a photograph of
something that happened, or for pictures that the person would not want; whoever shares or uses it needs the person's
consent for that too. Say that the pictures are generated.""",
)  # fmt: skip
STYLE = Kind(
    "style", False, ("style", "artwork"), "one style", "train only a style whose pictures you may use",
    """\
For pictures in a style whose maker has agreed to it, or whose pictures are free for this. Not for passing as the work
of that maker. Say that the pictures are generated.""",
)  # fmt: skip
BRAND = Kind(
    "brand", False, ("logo", "product"), "one brand", "train only a brand that you may use",
    """\
For pictures of a brand that its owner has agreed to. Not for passing as the owner's own. Say that the pictures are
generated.""",
)  # fmt: skip
KINDS = {kind.name: kind for kind in (PERSON, STYLE, BRAND)}
