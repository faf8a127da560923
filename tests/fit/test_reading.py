"""What the base does not read of the captions is said: their ends, and a trigger in pieces."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_bases import SAVERS

from trainer.bases.base import Base, get_base
from trainer.console import Console
from trainer.fit.reading import MOST_PIECES, check_reading
from trainer.records import Sample

FULL = "smiling, turned left, medium shot, light from the left, dark, plain background, color photo"


@pytest.fixture(scope="module")
def embedded() -> Base:
    return get_base("portrait-tiny")


def sample(caption: str) -> Sample:
    return Sample(Path("images/0007.png"), caption, (0, 0, 1, 1))


def test_the_embedded_base_reads_every_measured_caption_and_its_trigger(
    embedded: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = check_reading([sample(f"photo of ohwx person, {FULL}")], embedded, "ohwx", True, Console())
    assert facts == {"trigger_pieces": MOST_PIECES, "captions_cut": 0, "captions_not_mirrored": 0}
    assert capsys.readouterr().err == ""


def test_a_caption_that_is_cut_and_a_trigger_in_pieces_are_said(
    embedded: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = [f"photo of zyxwvutsrqp person, {FULL}", "photo of zyxwvutsrqp person"]
    facts = check_reading([sample(caption) for caption in captions], embedded, "zyxwvutsrqp", True, Console())
    assert facts == {"trigger_pieces": 11, "captions_cut": 1, "captions_not_mirrored": 0}
    said = capsys.readouterr().err
    assert "1 of 2 captions are longer than the 32 tokens" in said
    assert "0007.png" in said
    assert "splits the trigger zyxwvutsrqp into 11 pieces" in said


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("photo of ohwx person, turned left, light from the right", False),
        ("photo of ohwx person, a cup in the left hand", True),
        ("photo of ohwx person, turned left, Right arm raised", True),
        ("photo of ohwx person, at a bright leftover sale", False),
    ],
)
def test_sides_that_the_mirror_does_not_exchange_are_counted_where_it_is_on(
    caption: str, wrong: bool, embedded: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    for mirror in (True, False):
        facts = check_reading([sample(caption)], embedded, "ohwx", mirror, Console())
        assert facts["captions_not_mirrored"] == (wrong and mirror)
    assert ("1 of 1 captions say left or right" in capsys.readouterr().err) == wrong


@pytest.mark.parametrize("name", SAVERS)
def test_what_is_beyond_the_limit_is_what_the_encoders_do_not_see(name: str, tiny_base: Callable[[str], Path]) -> None:
    base = get_base(name, str(tiny_base(name)))
    count, most = base.count_tokens("a")
    assert count < most
    fits = "a" * (most - count + 1)
    assert base.count_tokens(fits) == (most, most)
    rows = base.encode_texts([fits + "b", fits + "c", fits[:-1] + "b"]).text
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
