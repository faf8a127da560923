"""What both kinds of stock pipelines, with a UNet and with a transformer, are asked in the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SAME, OTHER = 2e-3, 2e-2  # of a picture's range 0 to 1
Picture = Callable[[], Any]


def image_and_mask() -> tuple[Image.Image, Image.Image]:
    """Noise of 128 px, and a mask over half of it."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    return Image.fromarray(noise), Image.fromarray(np.tri(128, dtype=np.uint8) * 255)


def repeated(pipe: Any, **asked: Any) -> Picture:
    """Makes the same picture with the pipeline again and again."""
    pipe.set_progress_bar_config(disable=True)

    def picture() -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe("photo of ohwx person", generator=generator, output_type="np", **asked).images[0]

    return picture


def differ(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max())


def check_scales_a_second_lora_and_fusing(pipe: Any, picture: Picture, adapters: Path, file: str) -> None:
    """Of the adapter `file` in the folder, beside second.safetensors; leaves the pipeline bare."""
    bare = picture()
    pipe.load_lora_weights(str(adapters), weight_name=file, adapter_name="person")
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
