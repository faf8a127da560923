"""The base's own training: it makes the same weights every time, also when it was killed, on any imagefolder."""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ahead
import averaging
import budget
import checkpoint
import muon
import networks
import numpy as np
import processes
import pytest
import torch
import train_autoencoder
import train_unet
from captions import vocabulary
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/base"
STEPS = 3


@pytest.fixture(scope="module")
def imagefolder(
    tmp_path_factory: pytest.TempPathFactory,
    demo_files: list[Path],
    write_imagefolder: Callable[[Path, list[Path]], Path],
) -> Path:
    """Twelve pictures of faces, each with its sex."""
    return write_imagefolder(tmp_path_factory.mktemp("training") / "pictures", demo_files[:12])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the subprocess has it, and as it was afterwards: a training also sets how tiny numbers are rounded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def command(script: str, imagefolder: Path, out: Path, save_s: int) -> list[str]:
    arguments = ["--pictures", imagefolder, "--out", out, "--steps", STEPS, "--batch", 2, "--save-s", save_s]
    return [str(SCRIPTS / script), *map(str, arguments), "--device", "cpu"]


def train(script: str, imagefolder: Path, out: Path, *more: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command(script, imagefolder, out, 999), *more])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def train_with_a_kill(script: str, imagefolder: Path, out: Path, *more: str) -> None:
    """Ended the hard way once the first step was saved, then run again with the same arguments."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parents[1])}
    killed = [sys.executable, *command(script, imagefolder, out, 0)]
    with subprocess.Popen(killed, stdout=subprocess.PIPE, text=True, env=variables) as run:
        assert run.stdout is not None
        assert "'step': 1," in run.stdout.readline()
        run.kill()
    assert run.returncode == -signal.SIGKILL
    train(script, imagefolder, out, *more)


@pytest.mark.usefixtures("weights", "one_thread")
def test_a_killed_training_makes_the_weights_of_an_unbroken_one(imagefolder: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train("train_autoencoder.py", imagefolder, whole)
    train_with_a_kill("train_autoencoder.py", imagefolder, killed)
    one, other = (load_file(out / "autoencoder.safetensors") for out in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    train("train_autoencoder.py", imagefolder, tmp_path / "on", "--init-from", str(whole), "--rate", "0")
    started = load_file(tmp_path / "on/autoencoder.safetensors")
    assert all(torch.equal(one[name], started[name]) for name in one)

    train("train_unet.py", imagefolder, whole)
    train_with_a_kill("train_unet.py", imagefolder, killed, "--publish", str(killed / "published"))
    one, other = (torch.load(out / "unet.state.pt", weights_only=True) for out in (whole, killed))
    assert one["step"] == other["step"] == STEPS
    for part in ("model", "average"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])

    saved = (whole / "unet.state.pt").read_bytes()
    train("train_unet.py", imagefolder, whole, "--publish", str(whole / "published"))  # nothing is left but to publish
    assert (whole / "unet.state.pt").read_bytes() == saved
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (whole / "published" / file).read_bytes() == (killed / "published" / file).read_bytes()


def test_another_number_of_channels_starts_from_trained_layers(tmp_path: Path) -> None:
    trained, other = train_autoencoder.build_autoencoder(4), train_autoencoder.build_autoencoder(6)
    save_file(trained.state_dict(), tmp_path / "autoencoder.safetensors")
    own = {name: weight.clone() for name, weight in other.state_dict().items()}
    with pytest.raises(RuntimeError, match="conv_out"):
        train_autoencoder.start_from(train_autoencoder.build_autoencoder(6), tmp_path, new_latents=False)
    train_autoencoder.start_from(other, tmp_path, new_latents=True)
    for name, weight in other.state_dict().items():
        expected = own if name.startswith(train_autoencoder.BESIDE_LATENTS) else trained.state_dict()
        assert torch.equal(weight, expected[name]), name


def test_a_denoiser_of_other_latents_starts_from_trained_layers(tmp_path: Path) -> None:
    (trained, _), (other, _) = (train_unet.build_denoiser(tmp_path, channels, "lean") for channels in (4, 6))
    trained.unet.save_pretrained(tmp_path / "unet")
    trained.text.save_pretrained(tmp_path / "text_encoder")
    own = {name: weight.clone() for name, weight in other.unet.state_dict().items()}
    with pytest.raises(RuntimeError, match="conv_in"):
        train_unet.load_published(train_unet.build_denoiser(tmp_path, 6, "lean")[0], tmp_path)
    train_unet.load_published(other, tmp_path, new_latents=True)
    for name, weight in other.unet.state_dict().items():
        expected = own if name.startswith(train_unet.BESIDE_LATENTS) else trained.unet.state_dict()
        assert torch.equal(weight, expected[name]), name
    words = trained.text.state_dict()
    assert all(torch.equal(weight, words[name]) for name, weight in other.text.state_dict().items())


@pytest.mark.usefixtures("weights", "one_thread")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_train_as_one_does(imagefolder: Path, tmp_path: Path, optimizer: str) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    weights = train_autoencoder.build_autoencoder(4).state_dict()
    for out in (alone, shared):
        out.mkdir()
        save_file(weights, out / "autoencoder.safetensors")
    more = ["--size", "lean", "--optimizer", optimizer, "--precision", "fp32"]  # in bf16 first steps hang on rounding
    train("train_unet.py", imagefolder, alone, *more)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS.parents[1])}
    subprocess.run([*launch, *command("train_unet.py", imagefolder, shared, 999), *more], env=variables, check=True)
    one, other = (torch.load(out / "unet.state.pt", weights_only=True) for out in (alone, shared))
    assert one["step"] == other["step"] == STEPS
    moved = [one["model"][name] - other["model"][name] for name in one["model"]]
    assert max(float(difference.abs().max()) for difference in moved) < 1e-4  # of steps of about 1e-3
    assert len((shared / "unet.jsonl").read_text().splitlines()) == 1
    losses = [json.loads((out / "unet.jsonl").read_text())["held_out_loss"] for out in (alone, shared)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.parametrize("prediction", train_unet.PREDICTIONS)
def test_what_is_to_be_predicted_leads_back_to_the_picture(tmp_path: Path, prediction: str) -> None:
    networks.write_tokenizer(tmp_path)
    latents = np.arange(3, dtype=np.float16).reshape(3, 1, 1, 1, 1) * np.ones((3, 2, 4, 8, 8), np.float16)
    scheduler = train_unet.scheduler_of(prediction)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    drawer = train_unet.Drawer(latents, 0.5, [["man"]] * 3, np.arange(3), tokenizer, scheduler)
    batch = drawer.draw(0, 64)
    alphas = scheduler.alphas_cumprod[batch.levels].view(-1, 1, 1, 1)
    if prediction == "epsilon":
        assert (alphas > 1e-3).all()  # never pure noise, of which the picture could not be told
        found = (batch.noisy - (1 - alphas).sqrt() * batch.target) / alphas.sqrt()
    else:
        assert scheduler.alphas_cumprod[-1] < 1e-6
        found = alphas.sqrt() * batch.noisy - (1 - alphas).sqrt() * batch.target
    numbers = found.mean(dim=(1, 2, 3))
    assert (found - numbers.view(-1, 1, 1, 1)).abs().max() < 1e-3
    assert {round(number, 2) for number in numbers.tolist()} == {0.0, 0.5, 1.0}


def test_a_batch_is_shared_in_equal_parts_or_not_at_all() -> None:
    taken = [range(6)[processes.Processes(rank, 3).part(6)] for rank in range(3)]
    assert [list(part) for part in taken] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(SystemExit, match="--batch 7 cannot be shared by 3 processes"):
        processes.Processes(0, 3).part(7)


def test_steps_alone_decide_where_there_are_any() -> None:
    by_steps = budget.Budget(minutes=1, steps=10)
    assert by_steps.share(5, 1e9) == 0.5
    assert by_steps.is_used(10, 0)
    by_time = budget.Budget(minutes=1)
    assert by_time.share(10**9, 30) == 0.5
    assert not by_time.is_used(10**9, 59)


def test_every_word_of_the_grammar_is_one_token_and_the_files_are_the_same_every_time(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    for name in ("a", "b"):
        networks.write_tokenizer(tmp_path / name)
    for file in ("merges.txt", "vocab.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "a")
    assert [len(tokenizer.tokenize(word)) for word in vocabulary()] == [1] * len(vocabulary())
    assert len(tokenizer.tokenize("ohwx")) > 1


def test_merges_are_found_as_in_the_paper_and_ties_go_by_the_alphabet() -> None:
    assert networks.learned_merges(["low", "lot"])[0] == ("l", "o")  # the only pair that occurs twice
    assert networks.learned_merges(["zy", "ab"]) == [("a", "b</w>"), ("z", "y</w>")]
    assert networks.merged(["a", "a", "a"], ("a", "a")) == ["aa", "a"]


def test_the_average_forgets_the_start_and_remembers_its_share() -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    average = averaging.averaged(weight, share=0.1)
    for step in range(200):
        with torch.no_grad():
            weight.weight.fill_(1e6 if step < 10 else step)
        average.update_parameters(weight)
    assert average.module.weight.item() == pytest.approx(181, abs=3)  # of about the last 20


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_drawn_ahead_in_order_and_a_failure_is_not_hidden(workers: int) -> None:
    made: list[int] = []

    def draw(step: int) -> int:
        if step == 8:
            raise ValueError("no such picture")
        made.append(step)
        return step

    batches = ahead.ahead(draw, 5, workers)
    assert [next(batches), next(batches), next(batches)] == [5, 6, 7]
    with pytest.raises(ValueError, match="no such picture"):
        next(batches)
    assert made == ([] if workers else [5, 6, 7])  # another process has a list of its own


def test_matrices_made_orthogonal_at_once_are_those_made_alone() -> None:
    stack = torch.randn(3, 12, 7, generator=torch.Generator().manual_seed(0))
    alone = [muon.orthogonal(matrix[None])[0] for matrix in stack]
    assert torch.allclose(muon.orthogonal(stack), torch.stack(alone), atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (16, 8, 3, 3)])
def test_muon_moves_along_every_direction_alike(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=generator)
    muon.Muon([weight], lr=1.0, weight_decay=0).step()
    moved = -weight.detach().flatten(1) / (muon.SIZE * max(weight.shape[0], weight[0].numel()) ** 0.5)
    strengths = torch.linalg.svdvals(moved)
    assert strengths.min() > 0.6
    assert strengths.max() < 1.3
    assert torch.dot(moved.flatten(), weight.grad.flatten()) > 0
    assert weight.detach().square().mean().sqrt() == pytest.approx(muon.SIZE, rel=0.3)


def test_every_weight_of_the_base_has_one_optimizer() -> None:
    model = train_unet.Denoiser(networks.build_unet(8, "lean"), networks.build_text_encoder(300))
    for kind, names in (("adamw", {"optimizer"}), ("muon", {"optimizer", "muon"})):
        optimizers = train_unet.optimizers_of(model, kind, 1e-3)
        assert set(optimizers) == names
        taken = [id(w) for one in optimizers.values() for group in one.param_groups for w in group["params"]]
        assert sorted(taken) == sorted(map(id, model.parameters()))


def test_a_state_of_other_arguments_is_refused(tmp_path: Path) -> None:
    one = {"model": torch.nn.Linear(1, 1)}
    made_by: checkpoint.Choices = {"size": "lean", "prediction": "epsilon"}
    checkpoint.save(tmp_path / "state.pt", one, made_by, 3, 1.5)
    assert checkpoint.resume(tmp_path / "state.pt", one, made_by) == (3, 1.5)
    with pytest.raises(SystemExit, match="with --prediction epsilon; give"):
        checkpoint.resume(tmp_path / "state.pt", one, made_by | {"prediction": "v_prediction"})
    with pytest.raises(SystemExit, match="other arguments"):
        checkpoint.resume(tmp_path / "state.pt", one, made_by | {"channels": 8})
