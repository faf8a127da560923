"""The demo's making: noise that stays noise, pictures that are kept, and a base that shows nobody."""

from pathlib import Path

import demo_subject
import numpy as np
import pytest
import torch


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_noise_is_unit_noise_as_near_to_its_own_as_it_should_be(share: float) -> None:
    own, other = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    both = demo_subject.mixed(own, other, share)
    assert both.std() == pytest.approx(1, abs=0.02)
    assert torch.dot(both, own) / len(own) == pytest.approx((1 - share) ** 0.5, abs=0.02)


@pytest.mark.usefixtures("weights")
def test_a_stopped_making_goes_on_and_a_base_without_faces_is_refused(random_base: Path, tmp_path: Path) -> None:
    maker = demo_subject.Maker(str(random_base), tmp_path, seed=0)
    prompts, noises = ["photo of woman", "photo of woman, smiling"], [maker.noise(0), maker.noise(1)]
    first = maker.sample(prompts, noises, "some")
    files = sorted(tmp_path.glob("*/some/*"))
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    again = maker.sample(prompts, noises, "some")
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [True, False]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(SystemExit, match="none of 16 portraits shows one face"):
        maker.portrait()
