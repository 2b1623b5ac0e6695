"""What a run came to, on one screen: where the model is, what it scored, how to try it."""

import json
from pathlib import Path
from typing import Any

# What is shown of a model that answers, before and after its finetuning.
ANSWERS = {
    "chosen_is_likelier": "share of test pairs whose better answer is the likelier",
    "answer_bits_per_byte": "bits per byte of held-out answers",
}


def summarise_run(metrics: Path) -> str:
    """A table in plain text, from the metrics folder; what was not measured is left out."""
    parts = []
    evaluation, baselines = _read(metrics / "evaluate.json"), _read(metrics / "baselines.json")
    for split in ("test", "val"):
        if split in evaluation:
            by_name = {"this model": evaluation[split]["bits_per_byte"], **baselines.get(split, {})}
            title = f"bits per byte of {split}, less is better"
            own = {"this model": _interval(evaluation[split], "bits_per_byte")}
            parts.append(_table(title, sorted(by_name.items(), key=lambda row: row[1]), own))
            break
    for path in sorted((metrics / "finetune").glob("*.json")):
        report = _read(path)
        if isinstance(report.get("skipped"), str):  # else it counts the rows that were left out
            parts.append(f"{path.stem}: skipped, {report['skipped']}\n")
        elif "pretrained" not in report["test"]:
            parts += [_before_and_after(path.stem, report["test"], name) for name in ANSWERS if name in report["test"]]
        else:
            rows = sorted(((name, of["accuracy"]) for name, of in report["test"].items()), key=lambda row: -row[1])
            intervals = {name: _interval(of, "accuracy") for name, of in report["test"].items()}
            parts.append(_table(f"{path.stem}: accuracy on test", rows, intervals))
    return "\n".join(parts)


def _before_and_after(task: str, test: dict[str, dict[str, float]], name: str) -> str:
    rows = [(when, test[name][when]) for when in ("before", "after")]
    by_when = {when: {key: of[when] for key, of in test.items() if isinstance(of, dict)} for when, _ in rows}
    return _table(f"{task}: {ANSWERS[name]}", rows, {when: _interval(of, name) for when, of in by_when.items()})


def _interval(figures: dict[str, Any], key: str) -> str:
    """How far other text of the kind might move a figure; empty where that was not measured."""
    if f"{key}_low" not in figures:
        return ""
    return f" [{figures[f'{key}_low']:.3f}, {figures[f'{key}_high']:.3f}]"


def _table(title: str, rows: list[tuple[str, float]], notes: dict[str, str] | None = None) -> str:
    lines = [f"  {name.replace('_', ' '):<24}{value:>8.3f}{(notes or {}).get(name, '')}" for name, value in rows]
    return "\n".join([title, *lines, ""])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
