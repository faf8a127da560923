"""The verdict's word and its reasons, each from the number that calls for it."""

from typing import Any

import pytest

from trainer.evaluate.verdict import FAIR, STRONG, advice, verdict


def checkpoint(identity: float, selected: bool = False, strength: float = 1.0) -> dict[str, Any]:
    return {"selected": selected, "identity_select": identity, "strength": strength}


RISEN = [checkpoint(0.3), checkpoint(0.4, selected=True), checkpoint(0.35, strength=0.8)]
TURNED = [{"prompt": "photo of ohwx person, turned left", "group": "pose", "identity": 0.3}]


def card(share: float | None = 0.8, **changes: Any) -> dict[str, Any]:
    """A scorecard without any reason to doubt it, but for the changes."""
    good: dict[str, Any] = {
        "identity": {
            "mean": 0.5,
            "ceiling": 0.6,
            "floor_base": 0.1,
            "of_ceiling": share,
            "of_ceiling_ci95": [0.7, 0.9],
        },
        "copying": {"excess": 0.0, "any_excess": -0.1},
        "prompt": {"adapter": 0.5, "base": 0.5},
        "diversity": {"adapter": 0.4, "base": 0.4},
        "detail": {"change": -0.2},
        "detection_rate": 1.0,
        "leak": {"excess": 0.0, "beside_excess": None, "sexes_change": None},
        "seal": {"broken": 0},
        "photos": {"fit": 15, "report": 5},
        "checkpoints": [checkpoint(0.3), checkpoint(0.32, selected=True), checkpoint(0.1, strength=0.8)],
        "by_prompt": [
            {"prompt": "photo of ohwx person, turned left", "group": "pose", "identity": 0.45},
            {"prompt": "photo of ohwx person, busy background", "group": "setting", "identity": 0.1},
        ],
    }
    for key, value in changes.items():
        good[key] = good[key] | value if isinstance(value, dict) else value
    return good


@pytest.mark.parametrize(
    ("share", "word"),
    [
        (1.2, "strong"),
        (STRONG, "strong"),
        (STRONG - 0.001, "fair"),
        (FAIR, "fair"),
        (FAIR - 0.001, "weak"),
        (-1, "weak"),
    ],
)
def test_the_word_follows_the_share_of_the_ceiling(share: float, word: str) -> None:
    assert verdict(card(share), 0.15) == (word, [])


def test_without_a_share_nothing_can_be_said() -> None:
    word, reasons = verdict(card(None), 0.15)
    assert word == "unmeasurable"
    assert reasons


def test_without_sealed_photos_the_reason_and_the_way_out_are_said() -> None:
    unsealed = card(None, photos={"fit": 5, "report": 0}, by_prompt=[row | {"identity": None} for row in TURNED])
    word, reasons = verdict(unsealed, 0.15)
    assert word == "unmeasurable"
    (reason,) = reasons
    assert reason.startswith("5 photos are too few different shots to seal any")
    assert [line[:10] for line in advice(unsealed, 0.15)] == ["add photos"]
    assert verdict(unsealed | {"detection_rate": 0.5}, 0.15)[1][1].startswith("no face")


def test_numbers_that_are_not_there_raise_no_doubt() -> None:
    nothing = {"adapter": None, "base": None, "change": None}
    assert verdict(card(prompt=nothing, diversity=nothing, detail=nothing, copying={"any_excess": None}), 0.15)[1] == []


def test_with_a_broken_seal_nothing_can_be_said() -> None:
    word, reasons = verdict(card(seal={"broken": 2}), 0.15)
    assert word == "unmeasurable"
    assert "2 sealed photos" in reasons[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": {"mean": 0.61}}, "above the person's own ceiling"),
        ({"copying": {"excess": 0.16}}, "nearer to the photos it was fitted on"),
        ({"copying": {"any_excess": 0.16}}, "nearer to single photos"),
        ({"detection_rate": 0.9}, "no face in 10%"),
        ({"detail": {"change": -1.1}}, "1.1 octaves less fine detail"),
        ({"diversity": {"adapter": 0.1}}, "all alike"),
        ({"prompt": {"adapter": 0.3}}, "less of what is asked"),
        ({"leak": {"excess": 0.21}}, "class word alone"),
        ({"leak": {"beside_excess": 0.21}}, "stands beside the person"),
        ({"leak": {"sexes_change": -0.25}}, "no longer makes men and women"),
        ({"identity": {"of_ceiling_ci95": [0.5, 0.9]}}, "too wide to rank"),
        ({"photos": {"report": 3}}, "only 3 sealed photos"),
    ],
)
def test_each_doubt_is_said_once(changes: dict[str, Any], said: str) -> None:
    _, reasons = verdict(card(**changes), 0.15)
    assert len(reasons) == 1
    assert said in reasons[0]


def test_a_leak_of_nothing_learned_is_no_leak() -> None:
    assert verdict(card(identity={"mean": 0.12}, leak={"excess": 0.2}), 0.15)[1] == []


def test_where_nothing_stands_out_there_is_no_advice() -> None:
    assert advice(card(), 0.1) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"photos": {"fit": 9}}, "add photos: 9 were left"),
        ({"by_prompt": TURNED}, "add photos that show “turned left”"),
        ({"copying": {"excess": 0.11}}, "lower fit.steps"),
        ({"detection_rate": 0.9}, "lower fit.learning_rate"),
        ({"checkpoints": RISEN}, "raise fit.steps"),
        ({"prompt": {"adapter": 0.3}}, "lower fit.steps, by half"),
    ],
)
def test_each_number_that_stands_out_brings_one_advice(changes: dict[str, Any], said: str) -> None:
    (only,) = advice(card(**changes), 0.1)
    assert only.startswith(said)


@pytest.mark.parametrize(
    ("shows", "said"),
    [
        ({"smiling": 4}, "add 5 photos that show “turned left” or “turned right”, as 0 of 15 do"),
        (
            {"turned left": 1, "turned right": 2},
            "add 2 photos that show “turned left” or “turned right”, as 3 of 15 do",
        ),
        ({"turned left": 2, "turned right": 3}, "add photos that show “turned left”: asked for that"),
        ({}, "add photos that show “turned left”: asked for that"),
    ],
)
def test_the_advice_counts_the_photos_that_there_are(shows: dict[str, int], said: str) -> None:
    (only,) = advice(card(by_prompt=TURNED), 0.1, shows)
    assert only.startswith(said)


def test_an_adapter_made_elsewhere_is_not_told_how_to_fit() -> None:
    assert advice(card(photos={"fit": 0}, copying={"excess": None}, checkpoints=[]), 0.1) == []
