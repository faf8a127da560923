"""The exported files in every kind of stock pipeline: at several scales, beside a second LoRA, fused and unfused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stock import Picture, check_scales_a_second_lora_and_fusing, differ, image_and_mask, repeated

from trainer.adapter import read_adapter, write_adapter
from trainer.layouts.layers import read_layers, to_kohya

KINDS = ("text-to-image", "image-to-image", "inpainting", "ControlNet")
LAYOUTS = ("diffusers", "kohya")
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
    image, mask = image_and_mask()
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
    return pipe, repeated(pipe, **more)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scales_a_second_lora_and_fusing_do_what_they_say(
    layout: str, pipe_and_picture: tuple[Any, Picture], adapters: Path
) -> None:
    check_scales_a_second_lora_and_fusing(*pipe_and_picture, adapters, f"{layout}.safetensors")


def test_both_layouts_make_the_same_picture(pipe_and_picture: tuple[Any, Picture], adapters: Path) -> None:
    pipe, picture = pipe_and_picture
    made = []
    for layout in LAYOUTS:
        pipe.load_lora_weights(str(adapters), weight_name=f"{layout}.safetensors", adapter_name=layout)
        made.append(picture())
        pipe.unload_lora_weights()
    assert differ(*made) == 0
