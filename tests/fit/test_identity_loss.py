"""The identity loss: what it asks and of whom, and a fit with it that is as sure of its bits as any other."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import framed_of, hashes, interrupted_at
from PIL import Image
from test_loop import SETTINGS, adapter, fit_in_two, losses

from trainer.bases.base import Base, get_base
from trainer.console import Console
from trainer.errors import IntegrityError
from trainer.faces.align import crop_square
from trainer.faces.base import DifferentiableEmbedder, get_detector, get_differentiable
from trainer.fit import loop, stage
from trainer.fit.batches import Batch
from trainer.fit.cache import read_samples
from trainer.fit.identity import Identity, build_identity
from trainer.fit.lora import Shape, add_lora
from trainer.fit.objective import NO_VIEW, Examples, diffusion_loss, examples_of, joined
from trainer.pictures import open_picture

LAUNCHED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import torch
from test_loop import SETTINGS
from trainer.bases.base import get_base
from trainer.console import Console
from trainer.faces.base import get_differentiable
from trainer.fit import loop, stage
from trainer.weights import cache_folder
torch.set_num_threads(1)
loop.METRICS_EVERY, loop.STATE_EVERY_S = 1, -1.0
samples, base, folder = map(Path, sys.argv[1:])
settings = replace(SETTINGS, batch_size=1, identity_weight=0.5, identity_signal=1e-9)
eyes = get_differentiable("dlib", cache_folder())
stage.fit(
    samples, get_base("portrait-tiny", str(base)), settings, folder, Console(quiet=True), eyes=eyes
)
"""
CPU = torch.device("cpu")
CLEAR = 1e-9  # every noise level is


@pytest.fixture(scope="module")
def eyes(weights: Path) -> DifferentiableEmbedder:
    return get_differentiable("dlib", weights)


@pytest.fixture(scope="module")
def samples(demo_files: list[Path], weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of the demo person as prepare frames them, and where the face is."""
    folder, detector = tmp_path_factory.mktemp("samples"), get_detector(weights)
    (folder / "images").mkdir()
    rows = []
    for index, path in enumerate(demo_files[:2]):
        picture = crop_square(open_picture(path, 10**8).rgb_u8, *framed_of(path, detector).frame, 128)
        Image.fromarray(picture).save(folder / f"images/{index}.png")
        landmarks = (detector.detect(picture)[0].landmarks / 128).tolist()
        row = {"file_name": f"images/{index}.png", "text": "photo of ohwx person", "face_box": [0.2, 0.2, 0.8, 0.9]}
        rows.append(row | {"landmarks": landmarks})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def without_landmarks(samples: Path, folder: Path) -> Path:
    """The same pictures as a recipe without the loss has them prepared."""
    folder.mkdir()
    (folder / "images").symlink_to(samples / "images")
    rows = [json.loads(line) for line in (samples / "metadata.jsonl").read_text().splitlines()]
    lines = [json.dumps({key: row[key] for key in row if key != "landmarks"}) + "\n" for row in rows]
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def identity_of(samples: Path, base: Base, eyes: DifferentiableEmbedder, **changes: Any) -> Identity:
    settings = replace(SETTINGS, **{"identity_weight": 1.0, "identity_signal": CLEAR} | changes)
    identity = build_identity(read_samples(samples), base, eyes, settings, CPU)
    assert identity is not None
    return identity


def batch_of_views(samples: Path, base: Base, levels: list[int]) -> Examples:
    """Each of the two samples and its mirror image, at these noise levels."""
    latents = []
    for sample in read_samples(samples):
        picture = np.asarray(Image.open(sample.path))
        latents.append(base.encode_images([picture, picture[:, ::-1]]))
    whole = torch.cat(latents)
    noise = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
    texts = base.encode_texts(["photo of ohwx person"] * 4)
    weight, views = torch.ones_like(whole[:, :1]), torch.arange(4)
    return examples_of(base, Batch(whole, texts, weight, noise, torch.tensor(levels), torch.arange(4), views))


@pytest.fixture(scope="module")
def embedded() -> Base:
    return get_base("portrait-tiny")


def test_the_true_answer_costs_little_and_another_person_s_much(
    samples: Path, embedded: Base, eyes: DifferentiableEmbedder
) -> None:
    identity, given = identity_of(samples, embedded, eyes), batch_of_views(samples, embedded, [0, 200, 500, 999])
    with torch.no_grad():
        losses = identity.losses(given, given.wanted)
        assert losses.shape == (4,)
        assert float(losses.max()) < 0.3  # what the VAE costs, whatever the noise
        assert torch.allclose(
            identity_of(samples, embedded, eyes, identity_weight=3.0).losses(given, given.wanted), 3 * losses
        )
        lost = identity.losses(given, torch.zeros_like(given.wanted))
        assert float(lost[3]) > 0.6  # pure noise is nobody


def test_only_clear_samples_are_asked_and_never_the_prior(
    samples: Path, embedded: Base, eyes: DifferentiableEmbedder
) -> None:
    given = batch_of_views(samples, embedded, [10, 300, 600, 999])
    shares = embedded.schedule.signal_share(given.timesteps)
    assert float(shares[0]) > 0.9 > 0.5 > float(shares[2]) > float(shares[3])
    identity = identity_of(samples, embedded, eyes, identity_signal=float(shares[1]))
    prior = replace(given, view=torch.full((4,), NO_VIEW))
    both = joined([given, prior])
    with torch.no_grad():
        losses = identity.losses(both, torch.zeros_like(both.wanted))
    assert (losses > 0).tolist() == [True, True, False, False, *[False] * 4]


def test_a_mirrored_sample_is_compared_with_its_mirror_image(
    samples: Path, embedded: Base, eyes: DifferentiableEmbedder
) -> None:
    identity, given = identity_of(samples, embedded, eyes), batch_of_views(samples, embedded, [0] * 4)
    plain = identity_of(samples, embedded, eyes, mirror=False)
    assert len(identity.landmarks) == len(identity.wanted) == 4
    assert torch.equal(plain.wanted, identity.wanted[[0, 2]])
    for index, points in enumerate(plain.landmarks):
        np.testing.assert_array_equal(points, identity.landmarks[2 * index])
    swapped = replace(given, view=torch.tensor([1, 0, 3, 2]))
    with torch.no_grad():
        own, others = identity.losses(given, given.wanted), identity.losses(swapped, given.wanted)
    assert bool((own < others).all())


def test_a_step_lowers_it_on_a_fixed_batch(samples: Path, eyes: DifferentiableEmbedder) -> None:
    base = get_base("portrait-tiny")
    identity, given = identity_of(samples, base, eyes), batch_of_views(samples, base, [100, 150, 200, 250])
    weights = list(add_lora(base.denoiser, Shape(4, 4.0, base.lora_targets("attention")), 0).values())
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    losses = []
    for _ in range(2):
        answer = base.predict(given.noisy, given.timesteps, given.text)
        loss = identity.losses(given, answer).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]


def test_it_is_added_to_the_loss_of_its_row(samples: Path, embedded: Base, eyes: DifferentiableEmbedder) -> None:
    identity, given = identity_of(samples, embedded, eyes), batch_of_views(samples, embedded, [50] * 4)
    with torch.no_grad():
        answer = embedded.predict(given.noisy, given.timesteps, given.text)
        plain = diffusion_loss(embedded, given, "uniform", None)
        both = diffusion_loss(embedded, given, "uniform", None, identity.losses)
    torch.testing.assert_close(both - plain, identity.losses(given, answer), rtol=1e-4, atol=1e-5)


def test_recomputing_changes_no_bit_of_loss_or_gradient(
    samples: Path, embedded: Base, eyes: DifferentiableEmbedder
) -> None:
    given = batch_of_views(samples, embedded, [100] * 4)
    found = []
    for recompute in (False, True):
        answer = given.wanted.clone().mul_(0.9).requires_grad_()
        loss = identity_of(samples, embedded, eyes, gradient_checkpointing=recompute).losses(given, answer).sum()
        loss.backward()
        found.append((float(loss.detach()), answer.grad))
    (plain, gradient), (again, same) = found
    assert plain == again
    assert gradient is not None
    assert torch.equal(gradient, same)


Fit = Callable[..., dict[str, Any]]


@pytest.fixture
def fit(samples: Path, random_base: Path, eyes: DifferentiableEmbedder, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Fits into a folder, with the loss unless told otherwise, on the tiny random base."""
    monkeypatch.setattr(loop, "METRICS_EVERY", 1)
    monkeypatch.setattr(loop, "STATE_EVERY_S", -1.0)

    def call(
        folder: Path, stop: int | None = None, folder_of_samples: Path = samples, off: bool = False, **changes: Any
    ) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        on = {} if off else {"identity_weight": 0.5, "identity_signal": CLEAR}
        base, settings = get_base("portrait-tiny", str(random_base)), replace(SETTINGS, **on | changes)
        looked = None if off else eyes
        console = interrupted_at(stop) if stop else Console(quiet=True)
        return stage.fit(folder_of_samples, base, settings, folder, console, eyes=looked)

    return call


def test_a_stopped_fit_resumes_to_the_same_bits_and_recomputing_changes_none(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", 3)
    torch.manual_seed(99)
    fit(tmp_path / "stopped")
    fit(tmp_path / "again", gradient_checkpointing=True)
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "again") == hashes(tmp_path / "whole")


def test_without_it_nothing_is_other_than_it_was(fit: Fit, samples: Path, tmp_path: Path) -> None:
    fit(tmp_path / "off", off=True)
    fit(tmp_path / "bare", off=True, folder_of_samples=without_landmarks(samples, tmp_path / "unmarked"))
    fit(tmp_path / "on")
    assert hashes(tmp_path / "off") == hashes(tmp_path / "bare")
    assert hashes(tmp_path / "off") != hashes(tmp_path / "on")


def test_two_parts_make_the_step_of_one_batch(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "parts", batch_size=1, accumulation=2, prior_batch=0)
    fit(tmp_path / "whole", prior_batch=0)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=2e-4)
    assert_same_step(tmp_path / "parts", tmp_path / "whole")


def test_two_processes_make_the_steps_of_one_with_twice_the_batch(
    fit: Fit, samples: Path, random_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    fit_in_two(samples, random_base, folder, LAUNCHED)
    fit(tmp_path / "one", batch_size=2, prior_batch=2)
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), abs=2e-4)
    assert_same_step(folder, tmp_path / "one")


def assert_same_step(first: Path, other: Path) -> None:
    """Adam makes whole steps of gradients that are next to nothing, so single weights may differ more."""
    found, wanted = adapter(first), adapter(other)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert float((found[name] - tensor).norm()) < 0.02 * float(tensor.norm()) + 1e-4, name


def test_samples_without_landmarks_are_an_integrity_error(fit: Fit, samples: Path, tmp_path: Path) -> None:
    unmarked = without_landmarks(samples, tmp_path / "unmarked")
    with pytest.raises(IntegrityError, match="without landmarks") as caught:
        fit(tmp_path / "fit", folder_of_samples=unmarked)
    assert "--fresh" in caught.value.hint
