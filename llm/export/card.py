"""The model card: what the model is, what it was made of, what it scored, and the hash of every artifact."""

import hashlib
import json
from pathlib import Path
from typing import Any

from llm.errors import UserError


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics file; UserError where it is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError(f"{path}: wanted a metrics file, it is missing or no JSON") from None
    return content


def lineage_rows(artifacts: dict[str, Path]) -> list[tuple[str, str, str]]:
    """(stage, file, md5) of every file of every artifact, in order. The md5 is the one that DVC keeps it under."""
    rows = []
    for stage, path in artifacts.items():
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as handle:
                digest = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            rows.append((stage, (file.relative_to(path.parent)).as_posix(), digest))
    return rows


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Lines of a Markdown table; a bar or a line break in a cell is no part of the table."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows)
    return lines + [f"| {' | '.join(row)} |" for row in cells]


def write_card(metrics: dict[str, dict[str, Any]], finetuned: dict[str, dict[str, Any]], lineage: list[Any]) -> str:
    """The card as Markdown with the Hub's front matter. Every figure in it is read from the metrics."""
    prepare, tokenize, pretrain, export = (metrics[name] for name in ("prepare", "tokenize", "pretrain", "export"))
    python = prepare.get("python")
    origin = f"the standard library of Python {python['version']}" if python else "the user's own files"
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [groundup, qwen3]", "---"]
    lines += ["", "# A language model from the ground up", ""]
    lines += [
        f"{pretrain['parameters']:,} parameters in the shape of Qwen3, pretrained on {tokenize['tokens']['train']:,} "
        f"tokens ({prepare['bytes']['train']:,} bytes) of {origin}, {pretrain['epochs']} times over.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("models/export")',
        'tokenizer = AutoTokenizer.from_pretrained("models/export")',
        "```",
        "",
        f"Transformers' logits are within {export['max_logit_difference']} of the ones that it was trained with.",
    ]
    lines += ["", "## Held-out text", ""]
    evaluation, baselines = metrics["evaluate"], metrics["baselines"]
    splits = [split for split in ("val", "test") if split in evaluation]
    if splits:
        rows = {"this model": {split: evaluation[split]["bits_per_byte"] for split in splits}}
        for name in baselines[splits[0]]:
            rows[name.replace("_", " ")] = {split: baselines[split][name] for split in splits}
        by_last = sorted(rows.items(), key=lambda row: row[1][splits[-1]])
        head = ["bits per byte", *(f"{split} ({prepare['bytes'][split]:,} bytes)" for split in splits)]
        lines += table(head, [[name, *values.values()] for name, values in by_last])
    else:
        lines += ["No text was held out, so nothing was measured."]
    for name, report in finetuned.items():
        lines += ["", f"## Finetuned: {name}", "", *_task_lines(report)]
    lines += ["", "## What was dropped on the way", ""]
    dropped_documents = {rule: count["documents"] for rule, count in prepare["dropped"].items()}
    dropped = {f"prepare: {reason}": count for reason, count in dropped_documents.items()}
    dropped |= {f"label: {reason}": count for reason, count in metrics["label"]["dropped"].items()}
    lines += table(["what", "how many"], [[reason.replace("_", " "), count] for reason, count in dropped.items()])
    lines += ["", "## Lineage", "", "Every file that this model came from, by the md5 that DVC keeps it under.", ""]
    lines += table(["made by", "file", "md5"], [[stage, file, f"`{md5}`"] for stage, file, md5 in lineage])
    if python:
        lines += ["", f"sha256 of the standard library that was read: `{python['library_sha256']}`."]
    lines += [
        "",
        "## Limits",
        "",
        "A small model of a small text: it writes what looks like its text, and knows little.",
    ]
    return "\n".join(lines) + "\n"


def _task_lines(report: dict[str, Any]) -> list[str]:
    if "skipped" in report:
        return [f"Skipped: {report['skipped']}."]
    counts = ", ".join(f"{count:,} {split}" for split, count in report["rows"].items())
    if "answer_bits_per_byte" in report["test"]:
        bits = report["test"]["answer_bits_per_byte"]
        rows = [[when, value] for when, value in bits.items()]
        return [f"Rows: {counts}.", "", *table(["held-out answers", "bits per byte"], rows)]
    rows = [
        [name.replace("_", " "), figures["accuracy"], figures["macro_f1"], _setting(report["settings"][name])]
        for name, figures in sorted(report["test"].items(), key=lambda row: -row[1]["accuracy"])
    ]
    return [f"Rows: {counts}.", "", *table(["on test", "accuracy", "macro-F1", "setting"], rows)]


def _setting(setting: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in setting.items() if not isinstance(value, dict))
