"""Captions by a vision-language model in a folder or on the hub, through transformers; nothing it brings is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils import logging

from trainer.bases.base import best_device
from trainer.errors import MissingPartError
from trainer.prepare.captions import Captioner, tidy
from trainer.prepare.identity_words import without_identity, without_somebody
from trainer.records import RGB

NEW_TOKENS = 96
TASK = "<DETAILED_CAPTION>"  # Florence-2's own name of it (arXiv 2311.06242, table 13)
QUESTION = (
    "Describe this photo in one line of short phrases: expression, clothes, pose, light, place and background. "
    "Do not say anything about age, sex, skin, hair, eyes or face, and name nobody."
)
IMAGE = "<|image_pad|>"  # Qwen-VL's mark for one merged patch of the picture
UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
TYPES = {"blip": "blip", "florence2": "florence2", "qwen-vl": "qwen"}  # how the configs of each kind begin
EXAMPLES = {
    "blip": "Salesforce/blip-image-captioning-large",
    "florence2": "florence-community/Florence-2-large",
    "qwen-vl": "Qwen/Qwen2.5-VL-3B-Instruct",
}


class Ask(Protocol):
    """How a kind of model is asked about a picture, and how its answer is read."""

    def inputs(self, picture: Image.Image) -> dict[str, torch.Tensor]:
        """What `generate` takes."""
        ...

    def answer(self, tokens: torch.Tensor, asked: int) -> str:
        """The text of (n,) generated tokens; `asked` is how many the question had."""
        ...


@dataclass(frozen=True, slots=True)
class Prompted:
    """BLIP, which is asked nothing, and Florence-2, which is told a task."""

    processor: Any
    task: str | None

    def inputs(self, picture: Image.Image) -> dict[str, torch.Tensor]:
        """The picture, and the task's words."""
        return dict(self.processor(images=picture, text=self.task, return_tensors="pt"))

    def answer(self, tokens: torch.Tensor, asked: int) -> str:
        """All tokens are the answer's: the decoder starts anew."""
        return str(self.processor.decode(tokens, skip_special_tokens=True))


@dataclass(frozen=True, slots=True)
class Chatted:
    """Qwen-VL: its image processor and tokenizer, since its whole processor also wants a reader of videos."""

    pixels: Any
    tokenizer: Any

    def inputs(self, picture: Image.Image) -> dict[str, torch.Tensor]:
        """The question in the model's own chat template, with one mark for each merged patch."""
        seen = dict(self.pixels(images=picture, return_tensors="pt"))
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
        text = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        marks = int(seen["image_grid_thw"].prod()) // self.pixels.merge_size**2
        words = self.tokenizer(text.replace(IMAGE, IMAGE * marks), return_tensors="pt")
        ids = words["input_ids"]
        which = (ids == self.tokenizer.convert_tokens_to_ids(IMAGE)).int()
        return {"input_ids": ids, "attention_mask": words["attention_mask"], "mm_token_type_ids": which, **seen}

    def answer(self, tokens: torch.Tensor, asked: int) -> str:
        """What follows the question."""
        return str(self.tokenizer.decode(tokens[asked:], skip_special_tokens=True))


@dataclass(frozen=True, slots=True)
class ModelCaptioner:
    """A model's answer, without the person it sees and without words of who that is."""

    name: str
    model: Any
    ask: Ask
    subject: str

    @torch.no_grad()
    def describe(self, photo: str, crop: RGB, words: Sequence[str]) -> str:
        """What the model sees in the sample, greedily: the same every time."""
        inputs = {
            key: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for key, value in self.ask.inputs(Image.fromarray(crop)).items()
        }
        tokens = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        asked = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return described(self.ask.answer(tokens[0], asked), self.subject)


def described(answer: str, subject: str) -> str:
    """A model's answer as the part of a caption that follows the trigger."""
    return tidy(without_identity(without_somebody(tidy(answer)), subject))


def load_captioner(kind: str, path: str, revision: str | None, subject: str) -> Captioner:
    """The model of that kind (`blip`, `florence2`, `qwen-vl`) in a folder, or on the hub at a pinned commit.

    Raises MissingPartError where it cannot be loaded. Only safetensors are read, and no code that the model brings.
    """
    _quiet()
    device = best_device()
    try:
        found = AutoConfig.from_pretrained(path, revision=revision).model_type
        if not found.startswith(TYPES[kind]):
            raise ValueError(f"its config is of type {found}")
        model: Any = AutoModelForImageTextToText.from_pretrained(
            path, revision=revision, use_safetensors=True, dtype=torch.float32 if device.type == "cpu" else "auto"
        )
        ask = _ask(kind, path, revision)
    except UNREADABLE as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingPartError(
            f"captioner {path} cannot be loaded as {kind}: {first}",
            f"set prepare.captioner_path to a folder or hub name of such a model, such as {EXAMPLES[kind]}",
        ) from None
    model.to(device).eval().requires_grad_(False)
    return ModelCaptioner(kind, model, ask, subject)


def _ask(kind: str, path: str, revision: str | None) -> Ask:
    if kind == "qwen-vl":
        return Chatted(*(_part(auto, path, revision) for auto in (AutoImageProcessor, AutoTokenizer)))
    return Prompted(_part(AutoProcessor, path, revision), TASK if kind == "florence2" else None)


def _part(auto: Any, path: str, revision: str | None) -> Any:
    return auto.from_pretrained(path, revision=revision, trust_remote_code=False)


def _quiet() -> None:
    said: Any = logging  # our own progress says what is going on
    said.set_verbosity_error()
    said.disable_progress_bar()
