"""The embedder that gradients pass through says what its twin says, and its gradients are right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import framed_of

from trainer.errors import UsageError
from trainer.faces.align import (
    ARCFACE_112,
    aligned_to,
    crop_square,
    dlib_chip_template,
    mirrored_landmarks,
    similarity_transform,
)
from trainer.faces.base import get_detector, get_differentiable
from trainer.faces.dlib import MODEL, DlibEmbedder
from trainer.faces.dlib_torch import DlibNetwork
from trainer.faces.warp import warped_to
from trainer.pictures import open_picture
from trainer.records import RGB, Face, Floats

Portrait = tuple[RGB, Floats]


@pytest.fixture(scope="module")
def portraits(demo_files: list[Path], weights: Path) -> list[Portrait]:
    """Framed photos of the demo person at 128 px, with the landmarks found there."""
    detector, made = get_detector(weights), []
    for path in demo_files[:4]:
        crop = crop_square(open_picture(path, 10**8).rgb_u8, *framed_of(path, detector).frame, 128)
        made.append((crop, detector.detect(crop)[0].landmarks))
    return made


def tensor_of(rgb_u8: RGB) -> torch.Tensor:
    return torch.from_numpy(np.array(rgb_u8)).permute(2, 0, 1).float()


def test_the_network_is_the_onnx_one(portraits: list[Portrait], weights: Path) -> None:
    ours, twin = DlibNetwork((weights / MODEL).read_bytes()), DlibEmbedder(weights)
    chips = [aligned_to(picture, points, dlib_chip_template(), 150) for picture, points in portraits]
    chips += [np.zeros_like(chips[0]), np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)]
    found = ours(torch.stack([tensor_of(chip) for chip in chips])).numpy()
    for row, chip in zip(found, chips, strict=True):
        np.testing.assert_allclose(row, twin.descriptor(chip), atol=1e-5)


def test_a_face_is_seen_as_the_gate_sees_it(portraits: list[Portrait], weights: Path) -> None:
    ours, twin = get_differentiable("dlib", weights), DlibEmbedder(weights)
    assert (ours.name, ours.sha256) == (twin.name, twin.sha256)
    for picture, points in portraits:
        vector = ours.embed(tensor_of(picture), points).numpy()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert float(vector @ twin.embed(picture, Face((0, 0, 1, 1), points, 1.0))) > 0.995  # its chip is rounded


def test_the_crop_is_that_of_opencv(portraits: list[Portrait]) -> None:
    for picture, points in portraits:
        theirs = aligned_to(picture, points, dlib_chip_template(), 150).astype(float)
        ours = warped_to(tensor_of(picture), points, dlib_chip_template(), 150).permute(1, 2, 0).numpy()
        assert np.abs(ours - theirs).max() < 6  # of 255: opencv rounds places to 1/32 pixel, and levels to whole ones
        assert np.abs(ours - theirs).mean() < 0.5


@pytest.mark.parametrize("side", [130, 300, 700])
def test_a_large_face_is_averaged_and_stays_where_it_is(side: int) -> None:
    """A ramp is its own average, and each of its pixels moves the crop."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ramp = torch.stack([x, y, x + y]).double().requires_grad_()
    points = (ARCFACE_112 * side / 112).astype(np.float32)
    crop = warped_to(ramp, points, ARCFACE_112, 112)
    back = np.linalg.inv(np.vstack([similarity_transform(points, ARCFACE_112), [0, 0, 1]]).astype(np.float64))
    wanted = np.stack([np.mgrid[:112, :112][1], np.mgrid[:112, :112][0], np.ones((112, 112))], -1) @ back[:2].T
    inside = slice(5, 106)
    found = crop.detach().numpy()[:2, inside, inside]
    np.testing.assert_allclose(found, wanted.transpose(2, 0, 1)[:, inside, inside], atol=1e-2)
    crop.sum().backward()
    assert ramp.grad is not None
    middle = slice(side // 4, 3 * side // 4)
    assert float(ramp.grad[:, middle, middle].min()) > 0


def test_gradients_are_those_of_finite_differences(portraits: list[Portrait], weights: Path) -> None:
    eyes = get_differentiable("dlib", weights)
    eyes._net.double()  # type: ignore[attr-defined]
    eyes._mean = eyes._mean.double()  # type: ignore[attr-defined]
    (picture, points), (other, its_points) = portraits[:2]
    wanted = eyes.embed(tensor_of(other).double(), its_points)
    pixels = tensor_of(picture).double().requires_grad_()
    (eyes.embed(pixels, points) @ wanted).backward()
    assert pixels.grad is not None
    patch, step = (slice(None), slice(70, 72), slice(60, 62)), 1e-3
    for index in np.ndindex(3, 2, 2):
        ends = []
        for sign in (1, -1):
            moved = pixels.detach().clone()
            moved[patch][index] += sign * step
            ends.append(float(eyes.embed(moved, points) @ wanted))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(pixels.grad[patch][index]) == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_mirrored_landmarks_lie_on_the_mirrored_face(portraits: list[Portrait], weights: Path) -> None:
    detector = get_detector(weights)
    for picture, points in portraits:
        mirror = np.ascontiguousarray(picture[:, ::-1])
        own = mirrored_landmarks(points, 128)
        assert np.abs(own - detector.detect(mirror)[0].landmarks).max() < 6  # pixels; the detector's own asymmetry
        np.testing.assert_allclose(mirrored_landmarks(own, 128), points, atol=1e-4)


def test_an_engine_without_gradients_is_refused(weights: Path) -> None:
    with pytest.raises(UsageError, match="onnx"):
        get_differentiable("onnx", weights)
