"""What a run came to, on one screen: where the model is, what it scored, how to try it."""

import json
from pathlib import Path
from typing import Any


def summarise_run(metrics: Path) -> str:
    """A table in plain text, from the metrics folder; what was not measured is left out."""
    parts = []
    evaluation, baselines = _read(metrics / "evaluate.json"), _read(metrics / "baselines.json")
    for split in ("test", "val"):
        if split in evaluation:
            by_name = {"this model": evaluation[split]["bits_per_byte"], **baselines.get(split, {})}
            title = f"bits per byte of {split}, less is better"
            parts.append(_table(title, sorted(by_name.items(), key=lambda row: row[1]), _interval(evaluation[split])))
            break
    for path in sorted((metrics / "finetune").glob("*.json")):
        report = _read(path)
        if "skipped" in report:
            parts.append(f"{path.stem}: skipped, {report['skipped']}\n")
        elif "answer_bits_per_byte" in report["test"]:
            bits = report["test"]["answer_bits_per_byte"]
            parts.append(_table(f"{path.stem}: bits per byte of held-out answers", list(bits.items())))
        else:
            rows = [(name.replace("_", " "), figures["accuracy"]) for name, figures in report["test"].items()]
            parts.append(_table(f"{path.stem}: accuracy on test", sorted(rows, key=lambda row: -row[1])))
    return "\n".join(parts)


def _interval(figures: dict[str, Any]) -> dict[str, str]:
    """What stands behind the model's own figure: how far other documents of the kind might move it."""
    if "bits_per_byte_low" not in figures:
        return {}
    return {"this model": " [{bits_per_byte_low:.3f}, {bits_per_byte_high:.3f}]".format(**figures)}


def _table(title: str, rows: list[tuple[str, float]], notes: dict[str, str] | None = None) -> str:
    lines = [f"  {name.replace('_', ' '):<24}{value:>8.3f}{(notes or {}).get(name, '')}" for name, value in rows]
    return "\n".join([title, *lines, ""])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
