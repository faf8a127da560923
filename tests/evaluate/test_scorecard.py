"""The scorecard of a whole run, and what the protocol says of pictures whose truth is known."""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import framed_of
from PIL import Image, ImageFilter

from trainer.bases.base import Base, get_base
from trainer.bases.sampling import Sampling, picture_name
from trainer.console import Console
from trainer.evaluate import stage
from trainer.evaluate.nulls import NOT_MEASURED
from trainer.evaluate.prompts import leak_prompts, paraphrases, report_prompts
from trainer.evaluate.sexes import sex_prompts
from trainer.evaluate.verdict import COARSE
from trainer.faces.align import crop_square
from trainer.faces.attributes import AttributeReader
from trainer.faces.base import get_detector, get_embedder
from trainer.fit.checkpoint import find_checkpoints
from trainer.pictures import open_picture
from trainer.prepare.stage import read_framed, read_split
from trainer.recipe import Recipe
from trainer.records import RGB

STRANGER = Path(__file__).resolve().parent.parent / "data" / "stranger.jpg"
KEYS: dict[str, Any] = {
    "schema": None, "subject": None, "verdict": None, "reasons": None, "detection_rate": None,
    "recipe": ["name", "sha256"], "base": ["name", "sha256"], "judge": ["name", "sha256"], "gate": ["name", "sha256"],
    "sampling": ["seeds", "steps", "guidance"], "photos": ["fit", "select", "report"],
    "identity": [
        "mean", "ci95", "ceiling", "floor_strangers", "floor_base", "of_ceiling", "pass_rate", "threshold",
        "per_photo_std", "false_accept_rate", "of_ceiling_gate",
    ],
    "copying": ["to_fit_photos", "excess", "any_excess"], "detail": ["adapter", "base", "change"],
    "leak": ["untriggered", "untriggered_base", "excess", "sexes", "sexes_base", "sexes_change"],
    "prompt": ["scorer", "adapter", "base", "change"], "diversity": ["adapter", "base"],
    "sensitivity": ["paraphrase_std"], "by_prompt": ["prompt", "group", "identity", "detected", "prompt_score"],
    "by_pose": ["pose", "pictures", "identity"], "seal": ["broken"],
    "checkpoints": ["step", "strength", "identity_select", "of_ceiling_select", "prompt", "copying", "selected"],
    "cost": ["fit_s", "total_s", "peak_bytes", "images_seen", "stopped_early"], "nulls": None,
}  # fmt: skip


@pytest.fixture
def evaluated(trained: dict[str, Any]) -> Path:
    folder: Path = trained["home"] / Path(trained["result"]["scorecard"]).parent
    return folder


@pytest.fixture
def card(evaluated: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((evaluated / "scorecard.json").read_text())
    return said


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def test_every_key_of_the_contract_is_there(card: dict[str, Any]) -> None:
    assert set(KEYS) <= set(card)
    for key, inner in KEYS.items():
        for row in card[key] if isinstance(card[key], list) else [card[key]]:
            assert set(inner or []) <= set(row if isinstance(row, dict) else []), key
    assert card["schema"] == 1
    assert card["subject"] == "zelda"
    assert card["verdict"] in {"strong", "fair", "weak", "unmeasurable"}


def test_every_number_is_finite(card: dict[str, Any]) -> None:
    found = list(numbers(card))
    assert len(found) > 50
    assert all(math.isfinite(value) for value in found)


def test_the_numbers_agree_with_each_other(card: dict[str, Any], trained: dict[str, Any]) -> None:
    identity = card["identity"]
    floor, ceiling = identity["floor_strangers"], identity["ceiling"]
    assert identity["of_ceiling"] == pytest.approx((identity["mean"] - floor) / (ceiling - floor))
    assert identity["of_ceiling"] == trained["result"]["stages"]["3_evaluate"]["of_ceiling"]
    assert identity["ci95"][0] <= identity["mean"] <= identity["ci95"][1]
    assert -0.2 < floor < ceiling < 1
    assert card["photos"] == {key: trained["result"]["stages"]["1_prepare"][key] for key in ("fit", "select", "report")}
    assert [(row["step"], row["strength"]) for row in card["checkpoints"]] == [(4, 1), (8, 1)]
    assert [row["step"] for row in card["checkpoints"] if row["selected"]] == [
        trained["result"]["stages"]["4_export"]["step"]
    ]
    assert card["gate"]["name"] != card["judge"]["name"]
    assert 0 < card["cost"]["fit_s"] <= card["cost"]["total_s"]


def test_the_report_opens_offline_and_shows_the_pictures(evaluated: Path, card: dict[str, Any]) -> None:
    html = (evaluated / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""https?:|(src|href)\s*=\s*["']?//|url\(|@import""", html)
    sources = re.findall(r'src="([^"]{0,22})', html)
    assert set(sources) == {"data:image/png;base64,"}
    pictures = 2 * len(card["by_prompt"])  # one seed, with the adapter and without
    pairs = 3 * 3  # each picture with the nearest fit and sealed photo
    strip, leaks = card["photos"]["report"], 2 * 3  # beside the sealed photos; of the leak test, adapter on and off
    assert len(sources) == pictures + card["photos"]["report"] + pairs + strip + leaks
    assert card["verdict"] in html
    assert all(row["prompt"] in html for row in card["by_prompt"])
    assert "holiday" not in html


def nulls(value: Any, path: str = "") -> Iterator[str]:
    if value is None:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else []:
        yield from nulls(inner, f"{path}.{key}".lstrip("."))
    for inner in value if isinstance(value, list) else []:
        yield from nulls(inner, path + "[]" * isinstance(inner, dict))


def test_every_null_has_its_reason(card: dict[str, Any]) -> None:
    found = {path for path in nulls(card) if not path.startswith("leak.beside")}
    assert found == set(card["nulls"])
    assert found >= {"diversity.adapter", "detail.adapter", "by_prompt[].prompt_score"}  # one seed, and no face
    assert card["nulls"]["diversity.adapter"].startswith("one seed")
    assert NOT_MEASURED not in card["nulls"].values()
    assert card["leak"]["beside_reason"]


Make = Callable[..., dict[str, Any]]


@pytest.fixture
def judge(trained: dict[str, Any], random_base: Path, weights: Path, tmp_path: Path) -> Make:
    """The report's numbers where these pictures, in turn, are what the adapter and the base made.

    Pictures that are there already are never sampled, so the real photos laid out beforehand are what is judged.
    """
    run = trained["home"] / trained["result"]["run"]
    split = read_split(run / "1_prepare")
    settings = stage.Settings(
        trigger="ohwx", class_word="person", seeds=2, select_prompts=2, sampling=Sampling(2, 2.0, 8),
        false_accept_rate=0.01, bootstrap=200, copying_limit=0.1, gate_engine="dlib", judge_engine="onnx",
        max_pixels=10**8, seed=0, choose="best", strengths=(), base_pictures=tmp_path / "base_pictures",
    )  # fmt: skip
    detector = get_detector(weights)
    eyes = stage.Eyes(detector, get_embedder("dlib", weights), get_embedder("onnx", weights), AttributeReader(weights))
    base: Base = get_base("portrait-tiny", str(random_base))
    samples = tmp_path / "images"
    shutil.copytree(run / "1_prepare/images", samples)
    photos = {path.name: path for path in (trained["home"] / "subjects/zelda/photos").iterdir()}
    framed = read_framed(run / "1_prepare")
    real = stage.Photos(photos, framed, split, samples)

    def portrait(path: Path) -> RGB:
        frame = (framed.get(path.name) or framed_of(path, detector)).frame
        return crop_square(open_picture(path, 10**8).rgb_u8, *frame, 128)

    def make(
        adapter: list[Path],
        untriggered: list[Path] | None = None,
        spoil: Callable[[RGB], RGB] = np.asarray,
        others: list[Path] | None = None,
    ) -> dict[str, Any]:
        strangers = [STRANGER]
        laid_out = {
            "adapter": (adapter, report_prompts("attributes", "ohwx person")),
            "paraphrase": (adapter, paraphrases("ohwx person")),
            "leak": (untriggered or strangers, leak_prompts("attributes", "person")),
            "sexes": (others or strangers, sex_prompts()),
            "base_sexes": (strangers, sex_prompts()),
            "base": (strangers, report_prompts("attributes", "ohwx person")),
            "base_leak": (strangers, leak_prompts("attributes", "person")),
        }
        for tag, (files, prompts) in laid_out.items():
            folder = tmp_path / "samples" / tag
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            portraits = [portrait(file) for file in files]
            if files is adapter:
                portraits = [spoil(picture) for picture in portraits]
            for index in range(2 * len(prompts)):
                picture = Image.fromarray(portraits[index % len(portraits)])
                picture.save(folder / picture_name(index // 2, index % 2))
        evaluator = stage.Evaluator(base, settings, eyes, real, tmp_path, Console(quiet=True))
        checkpoint = find_checkpoints(run / "2_fit")[0]
        numbers, _ = evaluator.report(checkpoint)
        return numbers

    make.split, make.photos, make.samples = split, real.paths, samples  # type: ignore[attr-defined]
    make.portrait = portrait  # type: ignore[attr-defined]
    return make


def test_other_photos_of_the_person_reach_the_ceiling(judge: Any, demo_files: list[Path]) -> None:
    said = judge(demo_files[14:])  # photos that the run never saw
    assert 0.7 < said["identity"]["of_ceiling"] < 1.3
    assert 0.7 < said["identity"]["of_ceiling_gate"] < 1.3
    assert said["identity"]["pass_rate"] > 0.8
    assert said["detection_rate"] > 0.9
    assert said["leak"]["excess"] == pytest.approx(0, abs=1e-6)
    assert said["identity"]["floor_base"] < said["identity"]["mean"] - 0.2
    plain, style = (
        np.mean([row["identity"] for row in said["by_prompt"] if (row["group"] == "style") == style])
        for style in (False, True)
    )
    assert said["identity"]["mean"] == pytest.approx(plain, abs=1e-6)
    assert said["identity"]["style_mean"] == pytest.approx(style, abs=1e-6)
    assert abs(plain - style) > 1e-3


def test_a_stranger_stays_at_the_floor(judge: Any) -> None:
    said = judge([STRANGER])
    assert max(said["identity"]["of_ceiling"], said["identity"]["of_ceiling_gate"]) < 0.3
    assert said["identity"]["pass_rate"] == 0
    assert said["identity"]["mean"] == pytest.approx(said["identity"]["floor_base"], abs=1e-6)


def test_the_fitted_photos_themselves_are_copies(judge: Any) -> None:
    said = judge([judge.photos[name] for name in judge.split.fit])
    honest = judge([judge.photos[name] for name in judge.split.select])
    limit = Recipe().evaluate.copying_limit
    assert said["copying"]["to_fit_photos"] > 0.85
    assert said["copying"]["excess"] > limit
    assert honest["copying"]["excess"] < limit / 2


def test_a_class_word_that_brings_the_person_is_a_leak(judge: Any, demo_files: list[Path]) -> None:
    said = judge(demo_files[14:], untriggered=demo_files[14:])
    assert said["leak"]["excess"] > 0.2
    assert said["leak"]["untriggered"] == pytest.approx(said["leak"]["untriggered_base"] + said["leak"]["excess"])


def test_one_face_for_men_and_women_is_right_for_half(judge: Any, demo_files: list[Path]) -> None:
    said = judge(demo_files[14:], others=demo_files[14:15])["leak"]
    assert (said["sexes"], said["sexes_base"], said["sexes_change"]) == (0.5, 0.5, 0)


def test_the_sealed_photos_themselves_are_above_the_ceiling(judge: Any) -> None:
    said = judge([judge.photos[name] for name in judge.split.report])
    assert said["identity"]["mean"] > said["identity"]["ceiling"]
    assert said["copying"]["excess"] < 0


def test_copies_of_all_photos_are_copies_however_they_were_dealt(judge: Any, demo_files: list[Path]) -> None:
    """What an adapter fitted on the sealed photos as well makes: no nearer to one side than to the other."""
    split, limit = judge.split, Recipe().evaluate.copying_limit
    said = judge([judge.photos[name] for name in split.fit + split.select + split.report])
    honest = judge(demo_files[14:])
    assert said["copying"]["any_excess"] > limit
    assert honest["copying"]["any_excess"] < limit / 2


def sharpened_blur(rgb_u8: RGB) -> RGB:
    """No detail, strong edges: to a Laplacian sharper than the photo."""
    blurred = Image.fromarray(rgb_u8).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(blurred.filter(ImageFilter.UnsharpMask(2, 300, 0)))


def test_a_sharpened_blur_of_the_person_lacks_detail(judge: Any, demo_files: list[Path]) -> None:
    said, honest = judge(demo_files[14:], spoil=sharpened_blur), judge(demo_files[14:])
    assert said["detail"]["change"] < COARSE < COARSE + 0.5 < honest["detail"]["change"]
    assert said["detail"]["base"] == honest["detail"]["base"]


def test_one_picture_for_every_seed_is_no_variety(judge: Any, demo_files: list[Path]) -> None:
    said, honest = judge(demo_files[14:15])["diversity"], judge(demo_files[14:])["diversity"]
    assert said["adapter"] == 0
    assert honest["adapter"] > 0.2


def test_sealed_photos_among_the_training_samples_are_counted(judge: Any, demo_files: list[Path]) -> None:
    assert judge(demo_files[14:])["seal"] == {"broken": 0}
    for index, name in enumerate(judge.split.report[:2]):
        Image.fromarray(judge.portrait(judge.photos[name])).save(judge.samples / f"99{index}.png")
    assert judge(demo_files[14:])["seal"] == {"broken": 2}


def test_the_last_checkpoint_can_be_taken_with_other_seeds_from_the_same_fit(
    copied: Path, trained: dict[str, Any], command: Any
) -> None:
    changes = ["--set", "evaluate.choose=last", "--set", "evaluate.seed=5"]
    done = command(copied, *trained["arguments"], *changes)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["reused"] == ["1_prepare", "2_fit"]
    card = json.loads((copied / result["scorecard"]).read_text())
    assert [(row["step"], row["selected"]) for row in card["checkpoints"]] == [(8, True)]
    samples = (copied / result["scorecard"]).parent / "samples"
    assert {path.stem.partition("-")[2] for path in (samples / "adapter").glob("*.png")} == {"5"}
    assert {path.stem.partition("-")[2] for path in (samples / "select/000008").glob("*.png")} == {"6"}
