"""What each sample's caption says: the trigger once, then what varies between the photos, and never who it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trainer.console import Console
from trainer.errors import PhotosError
from trainer.prepare.identity_words import PEOPLE, identity_words, without_identity
from trainer.records import RGB

ATTRIBUTES, SIDECAR = "attributes", "sidecar"
MODELS = ("blip", "florence2", "qwen-vl")
NAMED = 20  # problems that one error lists


@dataclass(frozen=True, slots=True)
class Captioning:
    """Who describes the samples and how; meanings as in `trainer.sections.PrepareSection`.

    Attributes:
        subject: the subject's name, which no caption should have.
        people: whether words that say who somebody is are looked for: not where a style or brand is learned.
    """

    captioner: str = ATTRIBUTES
    captioner_path: str | None = None
    captioner_revision: str | None = None
    identity_words: str = "refuse"
    trigger: str = "ohwx"
    class_word: str = "person"
    subject: str = ""
    people: bool = True

    def identity_words_in(self, text: str) -> list[str]:
        """The words of a text that say who it is, where they matter."""
        return identity_words(text, self.subject) if self.people else []


class Captioner(Protocol):
    """Says what varies in a sample."""

    @property
    def name(self) -> str:
        """As the recipe calls it."""
        ...

    def describe(self, photo: str, crop: RGB, words: Sequence[str]) -> str:
        """Words for the sample of the photo of that name, with the measured words at hand; empty for none."""
        ...


class AttributeCaptioner:
    """The measured words themselves."""

    name = ATTRIBUTES

    def describe(self, photo: str, crop: RGB, words: Sequence[str]) -> str:
        """The words in their order."""
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class SidecarCaptioner:
    """The user's own words, by photo."""

    said: Mapping[str, str]
    name: str = SIDECAR

    def describe(self, photo: str, crop: RGB, words: Sequence[str]) -> str:
        """What the photo's .txt says; empty where it has none."""
        return self.said.get(photo, "")


def get_captioner(how: Captioning, sidecars: Mapping[str, Path]) -> Captioner:
    """The captioner of the recipe; `sidecars` are the .txt files of the photos to caption and of no others.

    Raises:
        PhotosError: for sidecars that cannot be used, each with its reason.
        MissingPartError: for a model that cannot be loaded.
    """
    if how.captioner == ATTRIBUTES:
        return AttributeCaptioner()
    if how.captioner == SIDECAR:
        return SidecarCaptioner(read_sidecars(sidecars, how))
    from trainer.prepare.caption_models import load_captioner

    return load_captioner(how.captioner, str(how.captioner_path), how.captioner_revision, how.subject)


def read_sidecars(files: Mapping[str, Path], how: Captioning) -> dict[str, str]:
    """Text by photo. Raises PhotosError with every unusable one, or when there is none."""
    if not files:
        raise PhotosError(
            "no photo to fit on has a .txt beside it, and prepare.captioner is sidecar",
            "write photo.txt beside photo.jpg, or set prepare.captioner to attributes",
        )
    said, problems = {}, []
    for photo, path in files.items():
        try:
            said[photo] = _checked(tidy(read_text(path)), how)
        except ValueError as problem:
            problems.append(f"{Path(photo).with_suffix(path.suffix)}: {problem}")
    if problems:
        more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise PhotosError(
            f"{len(problems)} of {len(files)} captions cannot be used"
            + "".join(f"\n  {problem}" for problem in problems[:NAMED]) + more,
            "mend the .txt files; prepare.identity_words=cut leaves identity words out, warn keeps them",
        )  # fmt: skip
    return said


def read_text(path: Path) -> str:
    """A sidecar's text; `trainer.album` has looked at its length. Raises ValueError where it is no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def tidy(text: str) -> str:
    """One line: several are joined by commas, commas are followed by one space, and nothing unprintable is left."""
    lines = (" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in text.splitlines())
    parts = (part.strip() for line in lines for part in line.split(","))
    return ", ".join(part for part in parts if part)


def _checked(text: str, how: Captioning) -> str:
    """The text, without identity words where they are to be cut. Raises ValueError with the reason to refuse it."""
    if not text:
        raise ValueError("empty; delete it and the photo gets measured words")
    if len(_trigger(how.trigger).findall(text)) > 1:
        raise ValueError(f"has the trigger {how.trigger} more than once")
    found = how.identity_words_in(text)
    if found and how.identity_words == "refuse":
        raise ValueError(f"says who it is ({', '.join(found)}): the trigger is to mean that")
    return without_identity(text, how.subject) if how.people and how.identity_words == "cut" else text


def with_trigger(text: str, trigger: str, class_word: str) -> str:
    """The text with the trigger exactly once, followed by the class word, in its first part.

    That part is never left out of a shorter wording. A text without the trigger follows `photo of ohwx person`.
    """
    said = re.search(rf"\b{trigger}\b(?: (?:{PEOPLE}|{class_word})\b)?", text, re.IGNORECASE)
    if said is None:
        return tidy(f"photo of {trigger} {class_word}, {text}")
    *others, start = text[: said.start()].split(", ")
    end, *more = _trigger(trigger).sub("", text[said.end() :]).split(", ")
    return tidy(", ".join([f"{start}{trigger} {class_word}{end}", *others, *more]))


def _trigger(trigger: str) -> re.Pattern[str]:
    return re.compile(rf"\b{trigger}\b", re.IGNORECASE)


@dataclass
class Captions:
    """The captions of a run while they are made: who said what, and what to warn of."""

    captioner: Captioner
    how: Captioning
    by: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)

    def of(self, photo: str, crop: RGB, words: Sequence[str]) -> str:
        """The sample's whole caption; where the captioner has nothing to say, of measured words."""
        description = self.captioner.describe(photo, crop, words)
        self.by[self.captioner.name if description else ATTRIBUTES] += 1
        text = with_trigger(description or ", ".join(words), self.how.trigger, self.how.class_word)
        self.texts.append(text)
        return text

    def finish(self, console: Console) -> dict[str, Any]:
        """Say what is doubtful; returns the facts. Raises PhotosError where the captioner never had a word."""
        if self.texts and not self.by[self.captioner.name]:
            raise PhotosError(
                f"{self.captioner.name} said nothing about any of the {len(self.texts)} photos that could be used",
                "look at prepare.captioner_path, or set prepare.captioner to attributes",
            )
        if fallen := len(self.texts) - self.by[self.captioner.name]:
            who = self.captioner.name
            instead = "measured ones" if self.how.people else f"“{self.how.trigger} {self.how.class_word}” alone"
            console.say(f"{who} has no words for {fallen} of {len(self.texts)} samples: they get {instead}")
        warned = {"identity": self._identity(console), "same_text": self._same(console)}
        return {"by": dict(self.by), "warned": {what: count for what, count in warned.items() if count}}

    def _identity(self, console: Console) -> int:
        found = [words for text in self.texts if (words := self.how.identity_words_in(text))]
        if found:
            said = ", ".join(word for word, _ in Counter(word for words in found for word in words).most_common(5))
            console.say(f"{len(found)} captions say who it is ({said}): such words take the face from the trigger")
        return len(found)

    def _same(self, console: Console) -> int:
        if len(self.texts) < 2 or len(set(self.texts)) > 1:
            return 0
        console.say(f"all {len(self.texts)} captions are the same: what varies is not said, the trigger learns it too")
        return len(self.texts)
