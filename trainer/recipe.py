"""The recipe: every choice of a run, frozen, and checked once at the door.

Values are layered: the defaults of `trainer.sections`, then the recipe file, then `--set section.key=value`. `Layered`
keeps where each value came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from trainer.errors import RecipeError
from trainer.kinds import KINDS
from trainer.sections import (
    BaseModelSection,
    EvaluateSection,
    ExportSection,
    FacesSection,
    FitSection,
    PrepareSection,
    Section,
)

PACKAGE_ROOT = Path(__file__).resolve().parent
RECIPE_FOLDERS = (PACKAGE_ROOT.parent / "recipes", PACKAGE_ROOT / "_recipes")
READ_BY_CLIP = {"portrait-tiny", "sd15", "sdxl", "sd3", "flux1"}  # bases with text encoders that can learn
ONE_VECTOR = {"sd3"}  # of these, whose pipeline does not put several where a prompt says the word
TEACHER = "dlib"  # the face engine that gradients pass through
MAX_RECIPE_BYTES = 256 * 1024


class Recipe(Section):
    """A whole recipe. `Recipe()` is the shipped default, portrait-tiny on any machine."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$")] = "portrait-tiny"
    """Short name; part of the run folder's name."""
    base: BaseModelSection = BaseModelSection()
    """Which diffusion model is tuned."""
    faces: FacesSection = FacesSection()
    """Which face models look."""
    prepare: PrepareSection = PrepareSection()
    """Photos to samples."""
    fit: FitSection = FitSection()
    """The fine-tune."""
    evaluate: EvaluateSection = EvaluateSection()
    """The score."""
    export: ExportSection = ExportSection()
    """The adapter file."""

    def sha256(self) -> str:
        """Hash of every value, defaults included, in canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Layered:
    """A checked recipe and where each of its values came from (`default`, `recipe` or `flag`)."""

    recipe: Recipe
    sources: dict[str, str]
    file: Path | None


def recipe_files() -> dict[str, Path]:
    """Shipped recipes by name."""
    for folder in RECIPE_FOLDERS:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}
    return {}


def find_recipe(name_or_path: str) -> Path:
    """The file of a shipped recipe name or of a path. Raises RecipeError, listing the valid names."""
    shipped = recipe_files()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    raise RecipeError([f"no recipe called {name_or_path!r}"], f"use a .yaml path or one of: {', '.join(shipped)}")


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Layered:
    """Read a recipe file, apply `section.key=value` overrides and check the whole.

    Raises:
        RecipeError: with every problem at once, each naming the file and line or the flag.
    """
    path = find_recipe(name_or_path)
    values, lines = _read_yaml(path)
    sources = {_field_of(key): "recipe" for key, _ in leaves(values)}
    problems: list[str] = []
    for text in overrides:
        key, separator, raw = text.partition("=")
        if not separator or not key.strip():
            problems.append(f"--set {text}: expected section.key=value")
            continue
        try:
            problem = _assign(values, key.strip(), yaml.safe_load(raw) if raw.strip() else "")
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-99-99
            problem = f"not readable as a YAML value: {' '.join(str(error).split())}"
        if problem:
            problems.append(f"--set {text}: {problem}")
        sources[key.strip()] = "flag"
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(problems + [_problem(e, path, lines, sources) for e in error.errors()]) from None
    problems += _cross_checks(recipe, path)
    if problems:
        raise RecipeError(problems)
    return Layered(recipe, sources, path)


def described(section: type[Section] = Recipe, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the recipe with its documentation, in order."""
    for key, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from described(kind, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", " ".join((field.description or "").split())


def flat_values(recipe: Recipe) -> dict[str, Any]:
    """Every field of the recipe as `section.key: value`."""
    values = recipe.model_dump(mode="json")
    return {key: reduce(lambda inner, part: inner[part], key.split("."), values) for key, _ in described()}


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`a.b.c` and its value for everything in nested mappings."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _field_of(key: str) -> str:
    """The field that a key of nested mappings belongs to: a mapping may be a field's value."""
    return next((field for field, _ in described() if key.startswith(f"{field}.")), key)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's mapping and the line of each key. Raises RecipeError for anything that is not one mapping."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError([f"{path}: larger than {MAX_RECIPE_BYTES} bytes; this is no recipe"])
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: bad UTF-8, impossible dates
        raise RecipeError([f"{path}: not readable as YAML: {error}"]) from None
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise RecipeError([f"{path}: a recipe is a mapping of sections; this is {type(values).__name__}"])
    return values, dict(_key_lines(node, ""))


def _key_lines(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _key_lines(value, f"{name}.")


def _assign(values: dict[str, Any], dotted: str, value: Any) -> str | None:
    """Set `a.b` in nested mappings; the problem in words where that is impossible."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            return f"{parent} is a value, not a section"
        values = inner
    values[last] = value
    return None


def _problem(error: Any, path: Path, lines: dict[str, int], sources: dict[str, str]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    flagged = sources.get(key) == "flag" or (key not in lines and any(name.startswith(f"{key}.") for name in sources))
    where = f"--set {key}" if flagged else f"{path}:{lines.get(key, 1)}: {key}"
    reason = "unknown key" if error["type"] == "extra_forbidden" else error["msg"]
    return f"{where}: {reason}"


def _cross_checks(recipe: Recipe, path: Path) -> list[str]:
    """Rules between fields."""
    problems = []
    if recipe.faces.gate == recipe.faces.judge:
        problems.append(
            f"{path}: faces.judge: must differ from faces.gate ({recipe.faces.gate}), or the score is no proof"
        )
    if recipe.prepare.select_share + recipe.prepare.report_share > 0.6:
        problems.append(
            f"{path}: prepare.select_share + prepare.report_share: at most 0.6, something must be left to fit"
        )
    if len(set(recipe.prepare.framings)) < len(recipe.prepare.framings):
        problems.append(f"{path}: prepare.framings: names a framing twice")
    kind = KINDS[recipe.prepare.subject_kind]
    if recipe.prepare.class_word not in kind.class_words:
        words = " or ".join(kind.class_words)
        problems.append(f"{path}: prepare.class_word: a {kind.name} is called {words}, not {recipe.prepare.class_word}")
    if not kind.has_face and recipe.fit.mask != "box":
        problems.append(f"{path}: fit.mask: a {kind.name} shows nobody to mask; leave it at box")
    if not kind.has_face and recipe.fit.stop_after is not None:
        problems.append(f"{path}: fit.stop_after: no likeness tells when a {kind.name} gets no better; set it to null")
    checks = *_caption_checks(recipe), *_fit_checks(recipe), *_identity_checks(recipe)
    problems += [f"{path}: {problem}" for problem in checks]
    if recipe.base.name != "portrait-tiny" and not recipe.base.path:
        problems.append(f"{path}: base.path: needed for {recipe.base.name} (a folder or hub name)")
    return problems


def _caption_checks(recipe: Recipe) -> Iterator[str]:
    """What a captioner needs and what it does not take."""
    p = recipe.prepare
    offline = p.captioner in ("attributes", "sidecar")
    if not offline and p.captioner_path is None:
        yield f"prepare.captioner_path: needed for {p.captioner} (a folder or hub name)"
    if offline and p.captioner_path is not None:
        yield f"prepare.captioner_path: not for {p.captioner}; set prepare.captioner to blip, florence2 or qwen-vl"
    if p.captioner_path is not None and not Path(p.captioner_path).is_dir() and p.captioner_revision is None:
        yield f"prepare.captioner_revision: {p.captioner_path} is no folder; a hub name needs the commit to pin"


def _fit_checks(recipe: Recipe) -> Iterator[str]:
    """Rules between the fields of fit, and of fit and export."""
    f = recipe.fit
    if f.checkpoint_every > f.steps:
        yield "fit.checkpoint_every: more than fit.steps, no checkpoint would be written"
    if (f.weighting == "min_snr") != (f.min_snr_gamma is not None):
        yield "fit.min_snr_gamma: goes with fit.weighting min_snr, and only with it (5 in the paper)"
    yield from _rate_checks(f, recipe.base.name)
    yield from _token_checks(recipe)
    if f.warm_start is not None and not Path(f.warm_start).is_file():
        yield f"fit.warm_start: {f.warm_start}: no such file"
    if len({name.removesuffix("-online") for name in f.trackers}) < len(f.trackers):
        yield "fit.trackers: names one twice; wandb and wandb-online are the same tracker, offline or not"
    if f.init != "gaussian":
        yield from _start_checks(f)
        if recipe.base.quantize != "none":
            yield f"fit.init: {f.init} takes apart the weights that base.quantize rounds; set it to gaussian"
    if f.offload and f.adapter == "dora":
        yield "fit.offload: a DoRA measures the frozen weights in every step; set fit.adapter to lora or rslora"
    if f.offload and recipe.base.quantize != "none":
        yield "fit.offload: the layers of base.quantize stay on the GPU; set it to none"
    if recipe.export.kohya:
        if f.rank_pattern:
            yield "export.kohya: diffusers misreads that layout where ranks differ (fit.rank_pattern); set it to false"
        if f.adapter == "dora":
            yield "export.kohya: diffusers drops the lengths of a DoRA in that layout; set it to false"


def _identity_checks(recipe: Recipe) -> Iterator[str]:
    """What the identity loss cannot go with."""
    if recipe.fit.identity_weight is None:
        return
    if recipe.faces.judge == TEACHER:
        yield (
            f"fit.identity_weight: it is learned through {TEACHER}, which is faces.judge too, so the score would be no"
            " proof; choose another judge"
        )
    kind = KINDS[recipe.prepare.subject_kind]
    if not kind.has_face:
        yield f"fit.identity_weight: a {kind.name} has no face; set it to null"


def _rate_checks(f: FitSection, base: str) -> Iterator[str]:
    """What the learning rates go with."""
    if f.text_encoder_rate is not None and base not in READ_BY_CLIP:
        yield f"fit.text_encoder_rate: {base} reads texts with a language model, which is not tuned; set it to null"
    if f.optimizer != "prodigy":
        return
    if f.learning_rate < 0.1:
        yield "fit.learning_rate: Prodigy multiplies the rate that it finds by it; set it to 1"
    if f.lora_plus_ratio is not None:
        yield "fit.lora_plus_ratio: Prodigy has one rate for all; choose another optimizer"
    if f.text_encoder_rate not in (None, 1.0):
        yield "fit.text_encoder_rate: Prodigy has one rate for all; set it to 1 or null"


def _token_checks(recipe: Recipe) -> Iterator[str]:
    """What vectors of the trigger's own go with."""
    f, base, trigger, word = recipe.fit, recipe.base.name, recipe.prepare.trigger, recipe.prepare.class_word
    if not f.new_tokens:
        changed = [name for name in ("token_rate", "token_init", "token_until") if name in f.model_fields_set]
        yield from (f"fit.{name}: goes with fit.new_tokens, and only with it" for name in changed)
        return
    if base not in READ_BY_CLIP:
        yield f"fit.new_tokens: {base} reads texts with a language model, which learns no word; set it to 0"
    if base in ONE_VECTOR and f.new_tokens > 1:
        yield f"fit.new_tokens: prompts of {base} can say a word of one vector; set it to 1"
    if f.optimizer == "prodigy" and f.token_rate != 1.0:
        yield "fit.token_rate: Prodigy has one rate for all; set it to 1"
    if trigger in word:
        yield f"prepare.trigger: {trigger} is a part of {word}, which a token of its own would cut; choose another"


def _start_checks(f: FitSection) -> Iterator[str]:
    """What a start from the frozen weights cannot go with."""
    if f.adapter == "dora":
        yield f"fit.init: {f.init} cannot be undone in a DoRA's file; set fit.adapter to lora or rslora"
    if f.targets == "attention+conv":
        yield f"fit.init: {f.init} is for linear layers; set fit.targets to attention or to a list of such"
    if f.warm_start is not None:
        yield "fit.warm_start: a start of its own; set fit.init to gaussian"
