"""The cache: every sample and its mirror image, with captions, weights and latents that belong together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.bases.base import Base, get_base
from trainer.fit.cache import build_cache, class_caption, face_weights, mirrored_caption, read_samples, wordings_of

edges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(edges, edges, st.integers(2, 64), st.integers(2, 64), st.floats(1, 20))
def test_weights_have_mean_one_and_one_ratio(
    x: list[float], y: list[float], height: int, width: int, face_weight: float
) -> None:
    weight = face_weights((x[0], y[0], x[1], y[1]), height, width, face_weight)
    assert weight.shape == (1, height, width)
    assert float(weight.mean()) == pytest.approx(1, abs=1e-5)
    assert float(weight.max() / weight.min()) == pytest.approx(face_weight, rel=1e-5) or weight.unique().numel() == 1


def test_the_face_weighs_more_and_lies_where_the_box_says() -> None:
    weight = face_weights((0.0, 0.5, 0.5, 1.0), 4, 4, 3.0)[0]
    assert float(weight[2:, :2].min()) == float(weight[2:, :2].max())
    assert float(weight[3, 0]) == pytest.approx(3 * float(weight[0, 3]))
    assert float(weight[0, 0]) == float(weight[3, 3]) == float(weight[0, 3])


def test_a_mirrored_caption_swaps_sides_and_nothing_else() -> None:
    caption = "photo of ohwx person, smiling, turned left, light from the right, left-handed"
    mirrored = "photo of ohwx person, smiling, turned right, light from the left, left-handed"
    assert mirrored_caption(caption) == mirrored
    assert mirrored_caption(mirrored) == caption


CAPTION = "photo of ohwx person, smiling, turned left, dark, color photo"


@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_wordings_are_the_caption_and_parts_of_it_in_order(count: int, dropout: float, seed: int) -> None:
    first, *others = wordings_of(CAPTION, count, dropout, np.random.default_rng(seed))
    assert first == CAPTION
    assert len(others) == count - 1
    for other in others:
        words = iter(CAPTION.split(", "))
        assert all(word in words for word in other.split(", "))  # a subsequence
        assert other.startswith("photo of ohwx person")


def test_words_are_left_out_at_their_rate() -> None:
    kept = wordings_of(CAPTION, 2000, 0.3, np.random.default_rng(0))[1:]
    assert sum("smiling" in wording for wording in kept) / len(kept) == pytest.approx(0.7, abs=0.05)


def test_a_class_caption_has_no_trigger_and_all_the_rest() -> None:
    assert class_caption(CAPTION, "ohwx") == "photo of person, smiling, turned left, dark, color photo"


@pytest.fixture(scope="module")
def base(random_base: Path) -> Base:
    return get_base("portrait-tiny", str(random_base))


def test_both_views_are_encoded_with_their_captions(samples: Path, base: Base) -> None:
    ticks: list[int] = []
    found = read_samples(samples)
    wordings = [[sample.caption, "photo of ohwx person"] for sample in found]
    cache = build_cache(found, wordings, base, True, 2.0, lambda: ticks.append(1))
    assert [views.shape for views in cache.latents] == [(2, 4, 16, 16)] * 2
    assert [views.shape for views in cache.weight] == [(2, 1, 16, 16)] * 2
    assert len(ticks) == 2
    ramp = np.asarray(Image.open(found[0].path))
    torch.testing.assert_close(cache.latents[0][1], base.encode_images([ramp[:, ::-1]])[0], rtol=0, atol=0)
    texts = base.encode_texts(["photo of ohwx person, turned left", "photo of ohwx person, turned right", ""])
    assert cache.said.shape == (2, 2, 2)
    assert len(cache.texts) == 4  # each different caption once
    assert torch.equal(cache.texts.text[cache.said[1, :, 0]], texts.text[:2])
    assert torch.equal(cache.texts.text[cache.said[1, 0, 1]], base.encode_texts(["photo of ohwx person"]).text[0])
    assert torch.equal(cache.texts.text[cache.empty], texts.text[2])
    assert not torch.equal(texts.text[0], texts.text[1])
    assert torch.equal(cache.weight[0][1], cache.weight[0][0].flip(-1))
    assert float(cache.weight[0][0, 0, 0, 0]) == pytest.approx(2 * float(cache.weight[0][1, 0, 0, 0]))


def test_without_mirroring_there_is_one_view(samples: Path, base: Base) -> None:
    found = read_samples(samples)
    cache = build_cache(found, [[sample.caption] for sample in found], base, False, 1.0, lambda: None)
    assert len(cache.latents[0]) == cache.said.shape[1] == len(cache.weight[0]) == 1
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in cache.weight)
