"""The latent UNet base: what it encodes, what it wants predicted, and that a picture follows its seed alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.bases.base import Base, get_base, resolve_precision
from trainer.bases.files import folder_sha256
from trainer.errors import MissingPartError, UsageError
from trainer.records import RGB

NOISE: list[RGB] = list(np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8))


@pytest.fixture(scope="module")
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


def pictures(base: Base, prompts: list[str], seeds: list[int], batch_size: int = 4) -> list[RGB]:
    made: dict[int, RGB] = {}
    base.sample(prompts, seeds, 2, 2.0, batch_size, made.__setitem__)
    return [made[index] for index in range(len(prompts))]


def test_its_facts_come_from_the_files(base: Base, random_base: Path) -> None:
    assert (base.size_px, base.schedule.prediction, base.prompt_set) == (128, "v_prediction", "attributes")
    assert len(base.schedule) == 1000
    assert (base.schedule.signal.diff() < 0).all()
    assert base.sha256 == folder_sha256(random_base) == base.fresh().sha256
    assert get_base("sd15", str(random_base)).prompt_set == "scenes"


def test_the_hash_follows_every_weight_and_config(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "copy")
    before = folder_sha256(tmp_path / "copy")
    assert before == folder_sha256(random_base)
    config = tmp_path / "copy/scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "epsilon"}))
    assert folder_sha256(tmp_path / "copy") != before
    assert get_base("portrait-tiny", str(tmp_path / "copy")).schedule.prediction == "epsilon"


def test_a_row_s_bits_do_not_depend_on_its_neighbours(base: Base) -> None:
    together = base.encode_images(NOISE)
    assert together.shape == (3, 4, 16, 16)
    assert together.dtype == torch.float32
    assert all(torch.equal(base.encode_images([picture])[0], row) for picture, row in zip(NOISE, together, strict=True))
    words = ["photo of ohwx person", "", "photo of ohwx person, smiling"]
    texts = base.encode_texts(words)
    assert texts.text.shape == (3, 32, 32)
    assert texts.pooled is None
    alone = [base.encode_texts([word]).text[0] for word in words]
    assert all(torch.equal(one, row) for one, row in zip(alone, texts.text, strict=True))


def test_a_picture_follows_its_prompt_and_seed(base: Base) -> None:
    words = ["photo of ohwx person", "photo of ohwx person", "photo of ohwx person, smiling"]
    a, b, c = pictures(base, words, [0, 1, 0])
    assert a.shape == (128, 128, 3)
    assert a.dtype == np.uint8
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, c)
    again = pictures(base.fresh(), words, [0, 1, 0])
    assert all(np.array_equal(x, y) for x, y in zip((a, b, c), again, strict=True))


def test_half_precision_is_close_and_gives_full_precision_back(random_base: Path, base: Base) -> None:
    half = get_base("portrait-tiny", str(random_base), precision="bf16")
    noisy, text = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0)), base.encode_texts(["photo"])
    with torch.no_grad():
        exact, rough = (chosen.predict(noisy, torch.tensor([500]), text) for chosen in (base, half))
    assert rough.dtype == torch.float32
    assert 0 < float((exact - rough).abs().max()) < 0.1 * float(exact.abs().max())


def test_a_folder_that_is_no_base_is_a_missing_part(tmp_path: Path, random_base: Path) -> None:
    with pytest.raises(MissingPartError, match=str(tmp_path / "nowhere")) as caught:
        get_base("portrait-tiny", str(tmp_path / "nowhere"))
    assert "base.path" in caught.value.hint
    shutil.copytree(random_base, tmp_path / "cut")
    for weights in (tmp_path / "cut/unet").glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MissingPartError, match="cut"):
        get_base("portrait-tiny", str(tmp_path / "cut"))


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        get_base("sd99")
    assert "portrait-tiny" in caught.value.hint
    with pytest.raises(UsageError, match=r"needs base\.path"):
        get_base("sd15")


def test_precision_is_what_was_asked_or_what_the_hardware_does() -> None:
    assert [resolve_precision(asked) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert resolve_precision("auto") in {"fp32", "bf16"}
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
