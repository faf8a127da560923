"""A transformer's adapter in every kind of its stock pipelines: at scales, beside a second LoRA, fused and unfused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.adapter import write_adapter

KINDS = {"text-to-image": "", "image-to-image": "Img2Img", "inpainting": "Inpaint", "ControlNet": "ControlNet"}
SAME, OTHER = 2e-3, 2e-2  # of a picture's range 0 to 1
Picture = Callable[[], Any]
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

    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    image, mask = Image.fromarray(noise), Image.fromarray(np.tri(128, dtype=np.uint8) * 255)
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
    pipe.set_progress_bar_config(disable=True)

    def picture() -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe("photo of ohwx person", generator=generator, output_type="np", **more).images[0]

    return pipe, picture


def differ(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max())


def test_scales_a_second_lora_and_fusing_do_what_they_say(
    pipe_and_picture: tuple[Any, Picture], adapters: Path
) -> None:
    pipe, picture = pipe_and_picture
    bare = picture()
    pipe.load_lora_weights(str(adapters), weight_name="person.safetensors", adapter_name="person")
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
    pipe.fuse_lora(adapter_names=["person", "second"])
    assert differ(picture(), both) < SAME
    pipe.unfuse_lora()
    pipe.delete_adapters("second")
    pipe.set_adapters(["person"], [1.0])
    assert differ(picture(), made[1.0]) < SAME
    pipe.unload_lora_weights()
    assert differ(picture(), bare) < SAME
