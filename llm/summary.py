"""What a run came to, on one screen: where the model is, what it scored, how to try it."""

import shlex
from pathlib import Path
from typing import Any

from llm.export.card import read_metrics, tasks_to_show

# What is shown of a model that answers, before and after its finetuning.
ANSWERS = {
    "chosen_is_likelier": "share of test pairs whose better answer is the likelier",
    "answer_bits_per_byte": "bits per byte of held-out answers",
}


def summarise_run(metrics: Path) -> str:
    """A table in plain text, from the metrics folder; nothing where no run left any."""
    parts = []
    evaluation, baselines = _read(metrics / "evaluate.json"), _read(metrics / "baselines.json")
    for split in ("test", "val"):
        if split in evaluation:
            by_name = {"this model": evaluation[split]["bits_per_byte"], **baselines.get(split, {})}
            title = f"bits per byte of {split}, less is better"
            own = {"this model": _interval(evaluation[split], "bits_per_byte")}
            rows = sorted(by_name.items(), key=lambda row: row[1])
            parts.append(_table(title, rows, own) + _beside_best(evaluation[split]))
            break
    finetuned = {path.stem: _read(path) for path in sorted((metrics / "finetune").glob("*.json"))}
    for name, report in tasks_to_show(finetuned).items():
        if isinstance(report.get("skipped"), str):  # else it counts the rows that were left out
            parts.append(f"{name}: skipped, {report['skipped']}\n")
        elif "pretrained" not in report["test"]:
            measures = [measure for measure in ANSWERS if measure in report["test"]]
            parts += [_before_and_after(name, report["test"], measure) for measure in measures]
        else:
            rows = sorted(((of, row["accuracy"]) for of, row in report["test"].items()), key=lambda row: -row[1])
            intervals = {of: _interval(row, "accuracy") for of, row in report["test"].items()}
            parts.append(_table(f"{name}: accuracy on test", rows, intervals))
    if not parts and (metrics / "pretrain.json").is_file():
        parts.append("No text was held out, so nothing was measured.\n")
    return "\n".join(parts)


def how_to_try(metrics: Path, export: Path) -> str:
    """Where the model is, and a command that continues a beginning of its own kind of text."""
    if not (export / "config.json").is_file():
        return f"There is no model in {export} yet: make repro trains it."
    prompt = shlex.quote(_read(metrics / "evaluate.json").get("example_prompt", "1"))
    return f"The model is in {export}. Try it:\n  python -m llm generate {prompt} --model {export}"


def _before_and_after(task: str, test: dict[str, dict[str, float]], name: str) -> str:
    rows = [(when, test[name][when]) for when in ("before", "after")]
    by_when = {when: {key: of[when] for key, of in test.items() if isinstance(of, dict)} for when, _ in rows}
    return _table(f"{task}: {ANSWERS[name]}", rows, {when: _interval(of, name) for when, of in by_when.items()})


def _beside_best(figures: dict[str, Any]) -> str:
    """The difference to the best baseline, a line; empty where it was not measured."""
    if "best_baseline" not in figures:
        return ""
    difference = f"{figures['bits_per_byte_difference']:z.3f}{_interval(figures, 'bits_per_byte_difference')}"
    best = figures["best_baseline"].replace("_", " ")
    return f"  this model − {best}: {difference.replace('-', '−')}, {figures['verdict']}\n"


def _interval(figures: dict[str, Any], key: str) -> str:
    """How far other text of the kind might move a figure; empty where that was not measured."""
    if f"{key}_low" not in figures:
        return ""
    return f" [{figures[f'{key}_low']:.3f}, {figures[f'{key}_high']:.3f}]"


def _table(title: str, rows: list[tuple[str, float]], notes: dict[str, str] | None = None) -> str:
    lines = [f"  {name.replace('_', ' '):<24}{value:>8.3f}{(notes or {}).get(name, '')}" for name, value in rows]
    return "\n".join([title, *lines, ""])


def _read(path: Path) -> dict[str, Any]:
    return read_metrics(path) if path.is_file() else {}
