"""Every family alike: encode, target, a step that lowers the loss, and a file that its stock pipeline reads alike."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bases import SAVERS, load, save_sd3

from trainer.adapter import write_adapter
from trainer.bases.base import Base
from trainer.bases.conditioning import Conditioning
from trainer.bases.flux import unpacked
from trainer.fit.batches import Batch
from trainer.fit.lora import Shape, add_lora, lora_tensors
from trainer.fit.objective import Examples, diffusion_loss, examples_of
from trainer.records import RGB

SIZE_PX = 128
WORDS = ["photo of ohwx person", "photo of person, smiling"]
PICTURES: list[RGB] = list(np.random.default_rng(0).integers(0, 256, (2, SIZE_PX, SIZE_PX, 3), np.uint8))
WHERE = torch.tensor([200, 700]), torch.arange(2)  # noise levels, and places in the batch
TO_PICTURE = {"num_inference_steps": 2, "height": SIZE_PX, "width": SIZE_PX, "output_type": "np"}


@pytest.fixture(params=SAVERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tiny_base: Callable[[str], Path]) -> Path:
    return tiny_base(name)


def picture(base: Base) -> RGB:
    made: dict[int, RGB] = {}
    base.sample(WORDS[:1], [7], 2, 3.0, 1, made.__setitem__)
    return made[0]


def stock_picture(pipeline: Any) -> RGB:
    generator = torch.Generator().manual_seed(7)
    guided = {"guidance_scale": 3.0}
    if type(pipeline).__name__ == "QwenImagePipeline":
        guided = {"true_cfg_scale": 3.0, "negative_prompt": " "}
    image = pipeline(prompt=WORDS[0], generator=generator, **guided, **TO_PICTURE).images[0]
    return (image * 255).round().astype(np.uint8)


def stock(folder: Path, **parts: Any) -> Any:
    """What any user would load."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fixed_batch(base: Base) -> Examples:
    latents, text = base.encode_images(PICTURES), base.encode_texts(WORDS)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    return examples_of(base, Batch(latents, text, torch.ones_like(latents[:, :1]), noise, *WHERE))


@dataclass
class Fitted:
    """A base after some steps on one batch, the losses on the way, and the adapter's file."""

    base: Base
    batch: Examples
    losses: list[float]
    file: Path


def fit(base: Base, file: Path, steps: int) -> Fitted:
    batch = fixed_batch(base)
    shape = Shape(4, 8.0, base.lora_targets("attention+conv"))
    parameters = list(add_lora(base.denoiser, shape, 0).values())
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = diffusion_loss(base, batch, "min_snr", 5.0).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        losses.append(float(diffusion_loss(base, batch, "min_snr", 5.0).mean()))
    write_adapter(file, lora_tensors(base.denoiser, component=base.component), {"format": "pt"})
    return Fitted(base, batch, losses, file)


def test_a_picture_is_that_of_the_stock_pipeline(name: str, folder: Path) -> None:
    assert np.abs(picture(load(name, folder)).astype(int) - stock_picture(stock(folder))).max() <= 1


def test_sd3_does_without_t5(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_sd3(tmp_path / "sd3", t5=False)
    base = load("sd3", tmp_path / "sd3")
    pipeline = stock(
        tmp_path / "sd3", text_encoder_3=None, tokenizer_3=None, image_encoder=None, feature_extractor=None
    )
    assert np.abs(picture(base).astype(int) - stock_picture(pipeline)).max() <= 1
    assert not base.encode_texts(WORDS).text[:, 32:].any()  # where T5's tokens would be


def test_a_row_s_bits_do_not_depend_on_its_neighbours(name: str, folder: Path) -> None:
    base = load(name, folder)
    together = base.encode_images(PICTURES)
    assert together.dtype == torch.float32
    assert all(torch.equal(base.encode_images([p])[0], row) for p, row in zip(PICTURES, together, strict=True))
    texts = base.encode_texts([*WORDS, ""])
    for row, text in enumerate([*WORDS, ""]):
        alone, here = base.encode_texts([text]), texts[torch.tensor([row])]
        assert torch.equal(alone.text, here.text)
        assert alone.lengths == here.lengths
        assert (alone.pooled is None) == (here.pooled is None)
        assert alone.pooled is None or here.pooled is None or torch.equal(alone.pooled, here.pooled)


def test_latents_decode_to_the_picture_they_are_of(name: str, folder: Path) -> None:
    """The scale and shift are those that the stock pipeline takes off again; random weights hide it in a picture."""
    base, vae = load(name, folder), stock(folder).vae
    pixels = torch.from_numpy(PICTURES[0].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        raw = vae.encode(pixels[:, :, None] if name == "qwen-image" else pixels).latent_dist.mode()
    latents = base.encode_images(PICTURES[:1])
    if name == "flux2-klein":
        plain = latents * column((vae.bn.running_var + vae.config.batch_norm_eps).sqrt()) + column(vae.bn.running_mean)
        again = stock(folder)._unpatchify_latents(plain)
    elif name == "qwen-image":
        mean, std = (column(torch.tensor(row)) for row in (vae.config.latents_mean, vae.config.latents_std))
        again = (latents * std + mean)[:, :, None]
    else:
        again = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    torch.testing.assert_close(again, raw, rtol=1e-4, atol=1e-5)


def column(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)


def test_noising_and_target_are_the_scheduler_s(name: str, folder: Path) -> None:
    from diffusers import DDPMScheduler

    base, scheduler = load(name, folder), stock(folder).scheduler
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn((4, 4, 16, 16), generator=generator) for _ in range(2))
    levels = torch.tensor([0, 10, 500, 999])
    noisy, target = base.schedule.noised(latents, noise, levels), base.schedule.target(latents, noise, levels)
    if base.schedule.prediction == "flow":
        if scheduler.config.use_dynamic_shifting:  # 64 tokens, on the line through 256: 0.5 and 4096: 1.15
            mu = 0.5 + (64 - 256) * (1.15 - 0.5) / (4096 - 256)
            scheduler.set_timesteps(sigmas=list(np.linspace(1, 0.001, 1000)), mu=mu)
        times = scheduler.timesteps[999 - levels]  # its own count from much noise to little
        torch.testing.assert_close(base.schedule.times[levels], times, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(noisy, scheduler.scale_noise(latents, times, noise), rtol=1e-4, atol=1e-4)
        sigma = (times / 1000).view(-1, 1, 1, 1)
        torch.testing.assert_close(noisy - sigma * target, latents, rtol=1e-4, atol=1e-4)
        return
    plain = DDPMScheduler.from_config(scheduler.config)
    torch.testing.assert_close(noisy, plain.add_noise(latents, noise, levels), rtol=1e-5, atol=1e-5)
    velocity = base.schedule.prediction == "v_prediction"
    torch.testing.assert_close(target, plain.get_velocity(latents, noise, levels) if velocity else noise)


@pytest.mark.parametrize(("height", "width"), [(SIZE_PX, SIZE_PX), (160, 96)])
def test_an_answer_is_the_one_that_the_stock_pipeline_steps_by(
    height: int, width: int, name: str, folder: Path
) -> None:
    base, pipeline = load(name, folder), stock(folder)
    given: list[tuple[torch.Tensor, ...]] = []
    step = pipeline.scheduler.step

    def record(answer: torch.Tensor, time: torch.Tensor, sample: torch.Tensor, **options: Any) -> Any:
        seen = pipeline.scheduler.scale_model_input(sample, time) if name in ("sd15", "sdxl") else sample
        given.append((answer, time, seen))
        return step(answer, time, sample, **options)

    pipeline.scheduler.step = record
    generator = torch.Generator().manual_seed(7)
    asked = TO_PICTURE | {"height": height, "width": width, "guidance_scale": 0.0 if name == "z-image" else 1.0}
    pipeline(prompt=WORDS[0], generator=generator, **asked)
    (answer, time, seen), *_ = given
    level = (base.schedule.times - time).abs().argmin()[None]
    assert float(base.schedule.times[level]) == pytest.approx(float(time), abs=1e-2)
    with torch.no_grad():
        again = base.predict(as_latents(name, seen, height, width), level, base.encode_texts(WORDS[:1]))
    torch.testing.assert_close(again, as_latents(name, answer, height, width), rtol=1e-3, atol=1e-4)


def as_latents(name: str, tensor: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(1, channels, height, width) of what some pipelines keep as tokens, of a picture of this size."""
    if name in ("flux1", "qwen-image"):
        return unpacked(tensor, height // 8, width // 8)
    return tensor.transpose(1, 2).reshape(1, 32, height // 16, width // 16) if name == "flux2-klein" else tensor


def test_the_empty_caption_is_what_guidance_leads_away_from(name: str, folder: Path) -> None:
    """The adapter that never saw the empty caption as guidance has it would be led from somewhere else."""
    empty, said = load(name, folder).encode_texts([""]), led_from(name, stock(folder))
    if empty.lengths is not None:
        empty = Conditioning(empty.text[:, : int(empty.lengths)])
    torch.testing.assert_close(empty.text, said.text, rtol=1e-4, atol=1e-4)
    assert (empty.pooled is None) == (said.pooled is None)
    if said.pooled is not None:
        torch.testing.assert_close(empty.pooled, said.pooled, rtol=1e-4, atol=1e-4)


def led_from(name: str, pipeline: Any) -> Conditioning:
    """What the stock pipeline makes of no negative prompt; FLUX.1 has none, its guidance is an input."""
    if name == "sd15":
        return Conditioning(pipeline.encode_prompt(WORDS[0], torch.device("cpu"), 1, True)[1])
    if name == "z-image":
        return Conditioning(pipeline.encode_prompt(WORDS[0])[1][0][None])
    if name in ("flux2-klein", "qwen-image"):
        return Conditioning(pipeline.encode_prompt(" " if name == "qwen-image" else "")[0])
    if name == "flux1":
        return Conditioning(*pipeline.encode_prompt("", None)[:2])
    third = {"prompt_3": None} if name == "sd3" else {}
    _, embeds, _, pooled = pipeline.encode_prompt(WORDS[0], prompt_2=None, **third)
    return Conditioning(embeds, pooled)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_step_lowers_the_loss_and_the_file_draws_the_same_elsewhere(
    precision: str, name: str, folder: Path, tmp_path: Path
) -> None:
    fitted = fit(load(name, folder, precision), tmp_path / "a.safetensors", steps=1)
    assert fitted.losses[1] < fitted.losses[0]
    fitted = fit(load(name, folder, precision), tmp_path / "a.safetensors", steps=8)
    if precision == "bf16":
        return
    batch = fitted.batch
    with torch.no_grad():
        wanted = fitted.base.predict(batch.noisy, batch.timesteps, batch.text)
    loaded = load(name, folder)
    plain = picture(loaded)
    loaded.use_adapter(fitted.file)
    with torch.no_grad():
        again = loaded.predict(batch.noisy, batch.timesteps, batch.text)
    torch.testing.assert_close(again, wanted, rtol=1e-3, atol=1e-4)
    pipeline = stock(folder)
    pipeline.load_lora_weights(tmp_path, weight_name="a.safetensors")
    drawn = stock_picture(pipeline)
    assert np.abs(picture(loaded).astype(int) - drawn).max() <= 1
    assert np.abs(plain.astype(int) - drawn).max() > 1


def test_half_precision_is_close(name: str, folder: Path) -> None:
    answers = []
    for precision in ("fp32", "bf16"):
        base = load(name, folder, precision)
        given = fixed_batch(base)
        with torch.no_grad():
            answers.append(base.predict(given.noisy, given.timesteps, given.text))
    assert answers[1].dtype == torch.float32
    assert 0 < float((answers[0] - answers[1]).abs().max()) < 0.1 * float(answers[0].abs().max())


def test_released_it_still_answers_and_holds_nothing_else(name: str, folder: Path) -> None:
    base = load(name, folder)
    given = fixed_batch(base)
    parts = base._pipeline.components.values()  # type: ignore[attr-defined]
    held = [weakref.ref(part) for part in parts if isinstance(part, torch.nn.Module) and part is not base.denoiser]
    del parts
    with torch.no_grad():
        before = base.predict(given.noisy, given.timesteps, given.text)
        base.release()
        after = base.predict(given.noisy, given.timesteps, given.text)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert len(held) >= 2
    assert all(part() is None for part in held)
