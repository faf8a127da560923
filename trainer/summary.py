"""The last words of a run: the table and the lines that load the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.adapter import SOMEWHERE, loading_lines
from trainer.console import Console
from trainer.layouts.words import beside

SHOWN_TEXT = 500
SCORE = ("mean", "ceiling", "of_ceiling", "judge")  # of a file's metadata


def show(summary: dict[str, Any], console: Console) -> None:
    """What the stages that ran have to say."""
    stages = summary["stages"]
    prepared = stages["1_prepare"]
    rows = [("photos", _photos(prepared))]
    if prepared["warned"]:
        said = ", ".join(f"{count} {code}" for code, count in prepared["warned"].items())
        rows.append(("kept, but", f"{said}: see photos.jsonl"))
    if "scorecard" not in summary:  # its reasons say them too
        rows += [("unclear", doubt) for doubt in prepared["doubts"]]
    if prepared["shows"]:
        rows.append(("they show", ", ".join(f"{word} {count}" for word, count in prepared["shows"].items())))
    if prepared["lacks"]:
        rows.append(("none shows", f"{', '.join(prepared['lacks'])}: add such photos"))
    if sizes := prepared.get("sizes"):
        rows.append(("samples", ", ".join(f"{count} of {size}" for size, count in sizes.items())))
    rows += _captions(prepared["captions"])
    if "2_fit" in stages:
        fitted = stages["2_fit"]
        early = ", ended early: the last checkpoints were no better" if fitted.get("stopped_early") else ""
        rows.append(("fit", f"{fitted['steps']} steps in {fitted['fit_s']:.0f} s{early}"))
    if "scorecard" in summary:
        card = json.loads(Path(summary["scorecard"]).read_text(encoding="utf-8"))
        rows += _score(card)
    if stages.get("4_export", {}).get("no_kohya"):
        rows.append(("no kohya file", stages["4_export"]["no_kohya"]))
    rows.append(
        (
            "time",
            f"{summary['seconds']:.0f} s" + (f", reused {', '.join(summary['reused'])}" if summary["reused"] else ""),
        )
    )
    console.table("Likeness", rows)
    if "scorecard" in summary:
        console.result(f"report:  {Path(summary['scorecard']).with_name('report.html')}")
    if "adapter" in summary:
        adapter = Path(summary["adapter"])
        console.result(f"adapter: {adapter}")
        console.result("\nLoad it anywhere diffusers runs:\n")
        prompt, guidance = card["by_prompt"][0]["prompt"], card["sampling"]["guidance"]
        files = str(beside(SOMEWHERE)), str(beside(adapter))
        word = [line.replace(*files) for line in stages["4_export"].get("word", [])]
        console.result(loading_lines(summary["base_folder"], adapter, prompt, guidance, word))


def show_batch(outcomes: dict[str, Any], console: Console) -> None:
    """A row a subject: its verdict and likeness, or why there is none."""
    rows = []
    for name, outcome in outcomes.items():
        if outcome["summary"]:
            card = json.loads(Path(outcome["summary"]["scorecard"]).read_text(encoding="utf-8"))
            rows.append((name, card["verdict"], _cell(card["identity"]["of_ceiling"]), outcome["summary"]["adapter"]))
        else:
            rows.append((name, outcome["error"]["code"], "-", outcome["error"]["message"].splitlines()[0]))
    console.table("Batch", rows, ("subject", "verdict", "of_ceiling", "adapter"))


def show_portraits(made: dict[str, Any], console: Console) -> None:
    """Every portrait that was kept, the best first."""
    rows = []
    for one in made["portraits"]:
        doubt = "no face" if not one["has_face"] else "near one photo: a copy?" if one["is_copy"] else ""
        rows.append((one["file"], _cell(one["share"]), _cell(one["cosine"]), one["prompt"], doubt))
    console.table(made["folder"], rows, ("file", "share", "cosine", "prompt", ""))
    if not any(one["has_face"] for one in made["portraits"]):
        console.result("no face was found in any of them: another --style or --seed may do, or more and better photos")


def show_comparison(found: dict[str, Any], console: Console) -> None:
    """Every run in one column, then each difference from the first in words."""
    words, numbers = ("subject", "recipe", "verdict"), ("of_ceiling", "likeness", "copying", "leak", "prompt", "fit_s")
    rows = [(key, *(str(run[key]) for run in found["runs"])) for key in words]
    rows += [(key, *(_cell(run[key]) for run in found["runs"])) for key in numbers]
    console.table("Side by side", rows, ("", *(run["run"] for run in found["runs"])))
    for one in found["differences"]:
        if one["of_ceiling"] is None:
            console.result(f"{one['run']}: one of the two is not measurable, so there is no difference to tell")
            continue
        low, high = one["ci95"]
        said = "more" if one["of_ceiling"] > 0 else "less"
        told = f"{said} like its person than the first" if one["told_apart"] else "too close to the first to tell"
        pairs = "picture by picture" if one["paired"] else "other prompts, seeds or photos: not picture by picture"
        console.result(f"{one['run']}: {one['of_ceiling']:+.3f} (95% {low:+.3f} to {high:+.3f}), {told}; {pairs}")


def show_replay(said: dict[str, Any], console: Console) -> None:
    """What came out the same, and the two scores."""
    rows = [(words, "same" if equal else "differs") for words, equal in said["compared"].items()]
    hashes, scores = said["adapter_sha256"], said["of_ceiling"]
    rows.append(("the adapter", "same" if hashes["then"] == hashes["now"] else "differs"))
    rows.append(("of_ceiling", f"{_cell(scores['then'])} then, {_cell(scores['now'])} now"))
    if not said["same"]:
        limits = said["tolerance"]
        rows += [
            (f"distance: {key}", f"{value:.2g}, at most {limits[key]:g}")
            for key, value in said["distance"].items()
            if value is not None
        ]
    console.table("Replay", rows)


def show_adapter(said: dict[str, Any], console: Console) -> None:
    """What an adapter file is and says of itself."""
    rows = [
        (key, str(said[key]))
        for key in ("layout", "kind", "ranks", "tensors", "parameters", "dtypes", "tensors_sha256")
    ]
    for word, own in said["words"].items():
        vectors = ", ".join(f"{shape[0]} x {shape[1]} for {key}" for key, shape in own.items())
        rows.append(("new word", f"{word}: vectors {vectors}"))
    score = said["metadata"]
    if "likeness.verdict" in score:
        mean, ceiling, share, judge = (score.get(f"likeness.{key}", "-") for key in SCORE)
        told = f"{score['likeness.verdict']}: {share} of the ceiling, likeness {mean} of {ceiling} by {judge}"
        rows.append(("score, as the file says", told))
    metadata = [
        (key, text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + "...")
        for key, text in sorted(said["metadata"].items())
    ]  # some tools write every caption in
    console.table(said["file"], rows + metadata)


def show_converted(said: dict[str, Any], console: Console) -> None:
    """Where the new file is and what it lost."""
    rows = [(key, str(said[key])) for key in ("layout", "kind", "dtypes", "ranks", "layers", "tensors_sha256")]
    rows.append(("rounding", f"{said['rounding']:.1e} of the largest weight"))
    if said["retained"]:
        least = min(said["retained"]["by_layer"], key=said["retained"]["by_layer"].__getitem__)
        rows.append(("energy kept, mean", f"{said['retained']['mean']:.4f}"))
        rows.append(("energy kept, least", f"{said['retained']['min']:.4f} in {least}"))
    if said["error"]:
        rows.append(("error, mean", f"{said['error']['mean']:.1e} of a layer's update"))
        rows.append(("error, largest", f"{said['error']['max']:.1e}"))
    console.table(said["out"], rows)
    if said["retained"] and said["retained"]["min"] < 1:
        console.result(f"what that costs in likeness: trainer evaluate SUBJECT --adapter {said['out']}")


def show_merged(said: dict[str, Any], console: Console) -> None:
    """Where the new base is and what rounding took from the adapter."""
    lost = said["lost"]
    rows = [("layers", str(said["layers"])), ("scale", f"{said['scale']:g}"), ("bytes", str(said["bytes"]))]
    rows.append(("lost to rounding", f"{lost['mean']:.1e} of the update on average, {lost['max']:.1e} at most"))
    if said["word"]:
        rows.append(("new word", f"{said['word']}: its vectors are not merged; load learned_embeds.safetensors too"))
    console.table(said["out"], rows)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _photos(facts: dict[str, Any]) -> str:
    rejected = ", ".join(f"{count} {code}" for code, count in facts["rejected"].items())
    dealt = f"{facts['fit']} to fit on, {facts['select']} to select by, {facts['report']} sealed for the score"
    return f"{facts['photos']}: {dealt}" + (f"; rejected: {rejected}" if rejected else "")


def _captions(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Who wrote them, where that was not the measured words alone, and what to look at."""
    by = facts.get("by", {})
    said = ", ".join(f"{count} by {who}" for who, count in by.items()) if set(by) - {"attributes"} else ""
    doubts = {"identity": "say who it is", "same_text": "say the same"}
    warned = [f"{count} {doubts[what]}" for what, count in facts.get("warned", {}).items()]
    return [("captions", "; ".join(part for part in (said, *warned) if part))] if said or warned else []


def _score(card: dict[str, Any]) -> list[tuple[str, str]]:
    identity = card["identity"]
    rows = [("verdict", "; ".join([card["verdict"], *card["reasons"]])), *(("advice", line) for line in card["advice"])]
    if identity["mean"] is not None:
        low, high = identity["ci95"]
        rows += [
            ("likeness", f"{identity['mean']:.3f} (95% {low:.3f} to {high:.3f})"),
            ("ceiling", f"{identity['ceiling']:.3f} between the person's own photos"),
            ("floor", f"{identity['floor_strangers']:.3f} strangers, {identity['floor_base']:.3f} base alone"),
        ]
    share = "not measurable" if identity["of_ceiling"] is None else f"{identity['of_ceiling']:.3f}"
    rows.append(("of_ceiling", share))
    if card["detection_rate"] is not None:
        rows.append(("face found in", f"{card['detection_rate']:.0%} of the pictures"))
    if card["copying"]["excess"] is not None:
        rows.append(("copying", f"{card['copying']['excess']:+.3f} nearer to fitted photos than a new photo is"))
    return rows
