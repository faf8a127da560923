"""Words that say who somebody is. A caption that has them teaches those words the face, and takes it from the trigger.

The list is short and in English. It holds what does not change from photo to photo; clothes, glasses, make-up, beards
and the cut of the hair do change and are no identity words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

PEOPLE = (
    r"(?:person|people|wom[ae]n|m[ae]n|girls?|boys?|lad(?:y|ies)|guys?|gentleman|males?|females?|adults?|child|kid)"
)
_SOMEBODY = rf"(?=[ -](?:[\w-]+ )?{PEOPLE}\b)"  # at most one word between: a white bearded man
_SHADE = r"(?:black|dark|brown|light|red|gr[ae]y|white|silver|golden|fair|blonde?|blue|green|hazel|amber)"
_ORIGIN = (
    r"(?:asian|african(?:[- ]american)?|european|arab(?:ic)?|middle[- ]eastern|(?:south|east)[- ]asian|indian|chinese|"
    r"japanese|korean|mexican|jewish|black|white)"
)
_DECADES = r"(?:teens|twenties|thirties|forties|fifties|sixties|seventies|eighties|nineties|[1-9]0'?s)"
PATTERNS = {
    "hair colour": rf"(?:{_SHADE}|ginger)[- ](?:\w+[- ])?hair(?:ed)?|blonde?|brunette|red-?head(?:ed)?|auburn",
    "eye colour": rf"{_SHADE}[- ]eye[sd]?",
    "skin": r"(?:dark|light|fair|pale|olive|tan(?:ned)?|brown|black|white)[- ]skin(?:ned)?|freckle[sd]?|birthmark",
    "ethnicity": rf"{_ORIGIN}{_SOMEBODY}|caucasian|hispanic|latin[oax]|of \w+ (?:descent|ethnicity|origin)",
    "age": (
        r"\d{1,3}[- ]?(?:years?[- ]old|y/?o)|aged? \d{1,3}|age of \d{1,3}|middle[- ]aged|elderly|teenage[rd]?|"
        rf"in (?:his|her|their) (?:early |mid |late |mid-)?{_DECADES}|(?:young|old)(?:er)?{_SOMEBODY}"
    ),
    "another's looks": r"look-?\s?alikes?|resembl(?:es|ing|ance)|celebrity|doppelg(?:a|ä|ae)nger",
}
_ANY = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in PATTERNS.values()), re.IGNORECASE)
_PARTS = re.compile(r"\s*[,;.](?:\s+|$)")
# Words that start an addition, which can be left out whole.
_ADDS = re.compile(r"(?:with|and|who|that|wearing|in|at|on|by|against|standing|sitting|holding)\b", re.IGNORECASE)
_ADDITION = re.compile(rf"\s+(?={_ADDS.pattern})", re.IGNORECASE)
_JOINT = re.compile(r"^(?:and|who|that)\s+", re.IGNORECASE)
_EMPTY = re.compile(r"(?:an?|the|and|with|has|is|she|he|they|her|his|their|\W)*", re.IGNORECASE)
_LEAD = re.compile(
    rf"(?:(?:the|this) (?:image|picture|photo) (?:shows|is of|features|depicts)\s+)?(?:an? |the )?"
    rf"(?:(?:close-?\s?up )?(?:photo(?:graph)?|picture|portrait|image|selfie|close-?\s?up)(?: of)?\s+)?(?:an? |the )?"
    rf"(?P<which>(?:[\w-]+ ){{0,4}}){PEOPLE}\b\s*",
    re.IGNORECASE,
)


def identity_words(text: str, name: str = "") -> list[str]:
    """Every identity word of the text in its order, lower case; the parts of the subject's own `name` are such too."""
    found = [(match.start(), match.group().lower()) for match in _ANY.finditer(text)]
    if own := _name_pattern(name):
        found += [(match.start(), match.group().lower()) for match in own.finditer(text)]
    return [words for _, words in sorted(found)]


def without_identity(text: str, name: str = "") -> str:
    """The text without its identity words, and without the additions ("with blue eyes") that they stand in."""
    while True:  # what is left can meet and become another: "blue [blonde] eyes"
        parts = [" ".join(_kept(part, name)) for part in _PARTS.split(text)]
        left = ", ".join(_JOINT.sub("", part) for part in parts if not _EMPTY.fullmatch(part))
        if not identity_words(left, name):
            return left
        text = left if len(left) < len(text) else _bare(text, name)  # some reach over two clauses: young and tall man


def without_somebody(text: str) -> str:
    """A model's answer without "a photo of a woman" at its start: the trigger takes that place."""
    lead = _LEAD.match(text)
    if lead is None:
        return text
    which = _bare(f"{lead['which']}person", "").removesuffix("person")
    return (which + text[lead.end() :]).strip(" ,.")


def _kept(part: str, name: str) -> Iterator[str]:
    """The clauses of one part: additions whole or not at all, others without the words themselves."""
    for clause in _ADDITION.split(part):
        if not identity_words(clause, name):
            yield clause.strip()
        elif not _ADDS.match(clause):
            left = _bare(clause, name)
            if not _EMPTY.fullmatch(left):
                yield left


def _bare(text: str, name: str) -> str:
    own = _name_pattern(name)
    return " ".join(_ANY.sub(" ", own.sub(" ", text) if own else text).split())


def _name_pattern(name: str) -> re.Pattern[str] | None:
    """Words of a subject's name, from three letters on: `anna-k` is anna."""
    words = [re.escape(word) for word in re.split(r"[-_\d]+", name) if len(word) >= 3]
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE) if words else None
