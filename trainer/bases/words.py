"""A word that a base did not know: vectors of its own in the base's CLIP text encoders (arXiv 2208.01618).

While they learn they are the only rows that can; an adapter that has them brings them through diffusers' own loader.
Several vectors stand for one word as diffusers has it: prompts say the word, its tokens are `word`, `word_1`, ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

from trainer.bases.encoders import Tunable
from trainer.errors import IntegrityError, UsageError
from trainer.layouts.layer import Tensors
from trainer.layouts.words import KEYS, Words, bundled

Tensor = torch.Tensor


class NewRows(torch.nn.Module):
    """A frozen table of embeddings, and rows after it that can learn.

    Attributes:
        word: what they stand for.
        first: token of the first row; the others follow it.
        own: the rows, (n, width) float32 whatever the table is held in: small steps vanish in bf16.
        lengths: (n, 1) the rows' own, which they keep.
    """

    def __init__(self, table: torch.nn.Module, word: str, first: int, rows: Tensor) -> None:
        super().__init__()
        self.word, self.first = word, first
        self.table = table  # before the rows: an encoder's first parameter tells its number format
        start = rows.detach().float().clone()
        self.own = torch.nn.Embedding(len(rows), rows.shape[1], _weight=start).requires_grad_(False)
        self.lengths: Tensor
        self.register_buffer("lengths", _lengths(self.rows), persistent=False)

    @property
    def rows(self) -> Tensor:
        """Those that can learn."""
        weight: Tensor = self.own.weight
        return weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., width) of each token, in the table's number format."""
        new = tokens >= self.first
        known: Tensor = self.table(tokens.masked_fill(new, 0))
        own: Tensor = self.own((tokens - self.first).clamp(0, len(self.rows) - 1))
        return torch.where(new[..., None], own.to(known.dtype), known)

    @torch.no_grad()
    def begin_at(self, rows: Tensor) -> None:
        """Take these rows and their lengths."""
        self.rows.copy_(rows)
        self.lengths.copy_(_lengths(self.rows))

    @torch.no_grad()
    def kept(self) -> Tensor:
        """The rows at their lengths."""
        rows: Tensor = self.rows * (self.lengths / _lengths(self.rows))
        return rows


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return lengths


def names_of(word: str, vectors: int) -> list[str]:
    """The tokens of a word: `ohwx`, `ohwx_1`, ..."""
    return [word, *(f"{word}_{index}" for index in range(1, vectors))]


def learn_word(tokenizer: Any, encoder: Any, word: str, vectors: int, like: str) -> None:
    """Teach both a word whose vectors start at those of `like`, one token after the other, again from the first.

    Raises UsageError for a word that is a token already, and for a `like` without tokens.
    """
    if word in tokenizer.get_vocab():
        raise UsageError(f"prepare.trigger: {word} is a token of the base already", "choose another word, such as ohwx")
    start = tokenizer(like, add_special_tokens=False).input_ids
    if not start:
        raise UsageError(f"fit.token_init: the base reads nothing in {like!r}", "name a word, such as person")
    tokenizer.add_tokens(names_of(word, vectors))
    table = encoder.get_input_embeddings()
    rows = table.weight[[start[index % len(start)] for index in range(vectors)]]
    encoder.set_input_embeddings(NewRows(table, word, tokenizer.convert_tokens_to_ids(word), rows))


def new_rows(encoder: torch.nn.Module) -> NewRows | None:
    """Those of an encoder that was taught a word."""
    return next((module for module in encoder.modules() if isinstance(module, NewRows)), None)


def all_new_rows(encoders: Mapping[str, torch.nn.Module]) -> dict[str, NewRows]:
    """The same of all that were, by the encoders' names, in order."""
    found = {name: new_rows(encoder) for name, encoder in encoders.items()}
    return {name: rows for name, rows in found.items() if rows is not None}


def keep_lengths(encoders: Mapping[str, torch.nn.Module]) -> None:
    """Put the rows back to the lengths that they began with.

    A base's own rows differ little in length, and vectors that grow drown out the words beside them.
    """
    for rows in all_new_rows(encoders).values():
        rows.rows.data.copy_(rows.kept())


def word_tensors(encoders: Mapping[str, torch.nn.Module]) -> Tensors:
    """Copies of the rows under the names of adapter files."""
    found = all_new_rows(encoders).values()
    own = {key: rows.kept().cpu().clone() for key, rows in zip(KEYS, found, strict=False)}
    return bundled({rows.word: own for rows in found})


def said_whole(pipeline: Any) -> bool:
    """Whether the pipeline puts every vector of a word where a prompt says the word; else it must have one."""
    return hasattr(pipeline, "maybe_convert_prompt")


def put_words(pipeline: Any, tunable: Tunable | None, words: Words, file: Path, base: str) -> Callable[[], None]:
    """Load the vectors through diffusers' own loader; returns what takes them out again, bit for bit.

    Raises IntegrityError, naming the file, for words that this base cannot take.
    """
    pairs = list(tunable.tokenizers.items()) if tunable else []
    keys = KEYS[: len(pairs)]
    for word, own in words.items():
        _check(pipeline, pairs, keys, word, own, f"{file}: the word {word}", base)
    tokenizers = {name: getattr(pipeline, name) for _, name in pairs}
    tables = [getattr(pipeline, name).get_input_embeddings() for name, _ in pairs]
    weights = [table.weight.data for table in tables]

    def take_out() -> None:
        for name, tokenizer in tokenizers.items():
            setattr(pipeline, name, tokenizer)
        for (name, _), table, weight in zip(pairs, tables, weights, strict=True):
            table.weight.data = weight
            table.num_embeddings = getattr(pipeline, name).config.vocab_size = len(weight)

    for name, tokenizer in tokenizers.items():
        setattr(pipeline, name, copy.deepcopy(tokenizer))
    with torch.random.fork_rng(devices=[]):  # new rows are drawn before the vectors take their places
        for word, own in words.items():
            for (encoder, tokenizer), key in zip(pairs, keys, strict=True):
                parts = {"tokenizer": getattr(pipeline, tokenizer), "text_encoder": getattr(pipeline, encoder)}
                _Loader(pipeline).load_textual_inversion({word: own[key]}, **parts)
    return take_out


def loading_code(pipeline: Any, file: Path, word: str, keys: int) -> list[str]:
    """Lines of Python that load the vectors in `file` into `pipe`, of this class, as a user writes them."""
    if keys == 1:
        return [f'pipe.load_textual_inversion("{file}", token="{word}")']
    lines = [f'tokens = safetensors.torch.load_file("{file}")']
    loader = "pipe"
    if not hasattr(pipeline, "load_textual_inversion"):
        loader = "loader"
        lines += [
            "class Loader(diffusers.loaders.TextualInversionLoaderMixin):",
            "    components, hf_device_map = {}, None",
            "loader = Loader()",
        ]
    for key, end in zip(KEYS, ("", "_2"), strict=True):
        parts = f"tokenizer=pipe.tokenizer{end}, text_encoder=pipe.text_encoder{end}"
        lines.append(f'{loader}.load_textual_inversion(tokens["{key}"], token="{word}", {parts})')
    return lines


class _Loader(TextualInversionLoaderMixin):
    """diffusers' loader for a pipeline whose class does not have it: that of SD 3."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_pipeline"], name)


def _check(
    pipeline: Any,
    pairs: Sequence[tuple[str, str]],
    keys: Sequence[str],
    word: str,
    own: Tensors,
    what: str,
    base: str,
) -> None:
    if not pairs:
        raise IntegrityError(f"{what} has vectors of CLIP, and base {base} reads texts with a language model")
    if sorted(own) != sorted(keys):
        raise IntegrityError(f"{what} has vectors for {', '.join(sorted(own))}; base {base} reads {', '.join(keys)}")
    if len(own[keys[0]]) > 1 and not said_whole(pipeline):
        raise IntegrityError(f"{what} has {len(own[keys[0]])} vectors; prompts of base {base} can say one")
    for (encoder, tokenizer), key in zip(pairs, keys, strict=True):
        width = getattr(pipeline, encoder).get_input_embeddings().weight.shape[1]
        if own[key].shape[1] != width:
            raise IntegrityError(f"{what} has vectors of {own[key].shape[1]} numbers; {encoder} of {base} has {width}")
        taken = [name for name in names_of(word, len(own[key])) if name in getattr(pipeline, tokenizer).get_vocab()]
        if taken:
            raise IntegrityError(f"{what} is new to no encoder: base {base} has the token {taken[0]}")
