"""A transformer's adapter in every kind of its stock pipelines: at scales, beside a second LoRA, fused and unfused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stock import Picture, check_scales_a_second_lora_and_fusing, image_and_mask, repeated

from trainer.adapter import write_adapter

KINDS = {"text-to-image": "", "image-to-image": "Img2Img", "inpainting": "Inpaint", "ControlNet": "ControlNet"}
# A second adapter on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")


@pytest.fixture(scope="module")
def plain(tiny_base: Callable[[str], Path]) -> Any:
    import diffusers

    return diffusers.StableDiffusion3Pipeline.from_pretrained(tiny_base("sd3"))


@pytest.fixture(scope="module")
def adapters(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random adapters, strong enough to be seen: of attention and feed-forward, and of attention alone."""
    folder, generator = tmp_path_factory.mktemp("adapters"), torch.Generator().manual_seed(0)
    for file, targets in (("person", ("to_q", "to_v", "to_out.0", "ff.net.2")), ("second", ("to_k", "to_v"))):
        tensors = {}
        for name, module in plain.transformer.named_modules():
            if name.endswith(targets):
                outside, inside = module.weight.shape
                tensors[f"transformer.{name}.lora_A.weight"] = 0.3 * torch.randn(4, inside, generator=generator)
                tensors[f"transformer.{name}.lora_B.weight"] = 0.3 * torch.randn(outside, 4, generator=generator)
        write_adapter(folder / f"{file}.safetensors", tensors, {})
    return folder


@pytest.fixture(scope="module", params=KINDS)
def pipe_and_picture(request: pytest.FixtureRequest, plain: Any) -> tuple[Any, Picture]:
    """A stock pipeline and what makes the same picture with it again and again."""
    import diffusers

    image, mask = image_and_mask()
    more: dict[str, Any] = {"num_inference_steps": 2, "height": 128, "width": 128}
    parts = dict(plain.components)
    if request.param == "image-to-image":
        more |= {"image": image, "strength": 1.0}
    elif request.param == "inpainting":
        more |= {"image": image, "mask_image": mask, "strength": 1.0}
    elif request.param == "ControlNet":
        torch.manual_seed(0)
        net = diffusers.SD3ControlNetModel.from_transformer(
            plain.transformer, num_layers=1, num_extra_conditioning_channels=0
        )
        for parameter in net.controlnet_blocks.parameters():  # born as zeros, which would do nothing
            torch.nn.init.normal_(parameter, std=0.1)
        parts["controlnet"] = net
        more |= {"control_image": image}
    pipe = getattr(diffusers, f"StableDiffusion3{KINDS[request.param]}Pipeline")(**parts)
    return pipe, repeated(pipe, **more)


def test_scales_a_second_lora_and_fusing_do_what_they_say(
    pipe_and_picture: tuple[Any, Picture], adapters: Path
) -> None:
    check_scales_a_second_lora_and_fusing(*pipe_and_picture, adapters, "person.safetensors")
