"""The exported files in every kind of stock pipeline: at several scales, beside a second LoRA, fused and unfused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.adapter import read_adapter, write_adapter
from trainer.layouts.layers import read_layers, to_kohya

KINDS = ("text-to-image", "image-to-image", "inpainting", "ControlNet")
LAYOUTS = ("diffusers", "kohya")
SAME, OTHER = 2e-3, 2e-2  # of a picture's range 0 to 1
Picture = Callable[[], Any]
# A second adapter on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")


@pytest.fixture(scope="module")
def adapters(trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layouts of the exported adapter, made strong enough to be seen, and a second adapter of attention alone."""
    folder = tmp_path_factory.mktemp("adapters")
    exported = trained["home"] / trained["result"]["adapter"]
    generator = torch.Generator().manual_seed(0)
    tensors, metadata = read_adapter(exported)
    strong = {n: 0.2 * torch.randn(t.shape, generator=generator) if "lora_B" in n else t for n, t in tensors.items()}
    write_adapter(folder / "diffusers.safetensors", strong, metadata)
    write_adapter(folder / "kohya.safetensors", to_kohya(read_layers(exported, strong, {})), metadata)
    second = {n: 0.3 * torch.randn(t.shape, generator=generator) for n, t in tensors.items() if ".attn1.to_" in n}
    write_adapter(folder / "second.safetensors", second, {})
    return folder


@pytest.fixture(scope="module", params=KINDS)
def pipe_and_picture(request: pytest.FixtureRequest, random_base: Path) -> tuple[Any, Picture]:
    """A stock pipeline and what makes the same picture with it again and again."""
    import diffusers

    plain = diffusers.StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    parts = plain.components
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    image, mask = Image.fromarray(noise), Image.fromarray(np.tri(128, dtype=np.uint8) * 255)
    steps: dict[str, Any] = {"num_inference_steps": 2}
    if request.param == "text-to-image":
        pipe, more = plain, {**steps, "height": 128, "width": 128}
    elif request.param == "image-to-image":
        pipe, more = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False), {
            "image": image, "strength": 1.0, **steps
        }  # fmt: skip
    elif request.param == "inpainting":
        pipe, more = diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False), {
            "image": image, "mask_image": mask, "height": 128, "width": 128, "strength": 1.0, **steps
        }  # fmt: skip
    else:
        torch.manual_seed(0)
        net = diffusers.ControlNetModel.from_unet(plain.unet)
        for parameter in net.controlnet_mid_block.parameters():  # born as zeros, which would do nothing
            torch.nn.init.normal_(parameter, std=0.1)
        pipe = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
        more = {"image": image, **steps}
    pipe.set_progress_bar_config(disable=True)

    def picture() -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe("photo of ohwx person", generator=generator, output_type="np", **more).images[0]

    return pipe, picture


def differ(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scales_a_second_lora_and_fusing_do_what_they_say(
    layout: str, pipe_and_picture: tuple[Any, Picture], adapters: Path
) -> None:
    pipe, picture = pipe_and_picture
    bare = picture()
    pipe.load_lora_weights(str(adapters), weight_name=f"{layout}.safetensors", adapter_name="person")
    made = {}
    for scale in (0.0, 0.5, 1.0):
        pipe.set_adapters(["person"], [scale])
        made[scale] = picture()
    assert differ(made[0.0], bare) == 0
    assert min(differ(made[0.5], bare), differ(made[1.0], bare), differ(made[1.0], made[0.5])) > OTHER

    pipe.load_lora_weights(str(adapters), weight_name="second.safetensors", adapter_name="second")
    pipe.set_adapters(["person", "second"], [1.0, 1.0])
    both = picture()
    assert differ(both, made[1.0]) > OTHER
    pipe.set_adapters(["person", "second"], [1.0, 0.0])
    assert differ(picture(), made[1.0]) < SAME

    pipe.set_adapters(["person", "second"], [1.0, 1.0])
    pipe.fuse_lora(adapter_names=["person", "second"])
    assert differ(picture(), both) < SAME
    pipe.unfuse_lora()
    pipe.delete_adapters("second")
    pipe.set_adapters(["person"], [1.0])
    assert differ(picture(), made[1.0]) < SAME
    pipe.unload_lora_weights()
    assert differ(picture(), bare) < SAME


def test_both_layouts_make_the_same_picture(pipe_and_picture: tuple[Any, Picture], adapters: Path) -> None:
    pipe, picture = pipe_and_picture
    made = []
    for layout in LAYOUTS:
        pipe.load_lora_weights(str(adapters), weight_name=f"{layout}.safetensors", adapter_name=layout)
        made.append(picture())
        pipe.unload_lora_weights()
    assert differ(*made) == 0
