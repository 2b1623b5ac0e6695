"""A run on one screen: scores, texts of the model, commands that use it."""

import shlex
from pathlib import Path
from typing import Any

from llm.report import views
from llm.report.excerpt import excerpt
from llm.report.glossary import title
from llm.report.metrics import Metrics, Score, fold_intervals, read_metrics
from llm.report.tables import shell_string

ANSWERS = ("chosen_is_likelier", "answer_bits_per_byte")  # shown of a model that answers, before and after
TEXTS_SHOWN = 2
INDENT, PROMPT_MARK = " " * 4, "  > "
MAX_COMMAND_CHARS = 200  # of options and message


def describe_run(folder: Path, models: Path) -> str:
    """Return the summary of the metrics in a folder; empty where there are none."""
    metrics = read_metrics(folder)
    scores = show_scores(metrics)
    return scores and "\n".join([scores, *show_texts(metrics), show_commands(metrics, models)])


def show_scores(metrics: Metrics) -> str:
    """Return tables of scores on test, or on val where there is no test."""
    parts = []
    evaluation, splits = metrics.content.get("evaluate", {}), metrics.splits()
    if splits:
        rows = [[name.name, cells[-1]] for name, *cells in views.bits_per_byte(metrics).rows]
        sentence = views.difference(metrics, splits[-1], digits=3)
        parts.append(_table(f"bits per byte of {splits[-1]}, less is better", rows) + (sentence and f"  {sentence}\n"))
    if evaluation.get("non_causal"):
        parts.append("Attention is not causal: targets leak into the input, bits per byte are meaningless.\n")
    for name, report in metrics.tasks().items():
        parts += _task_scores(name, report)
    if not parts and "pretrain" in metrics.content:
        parts.append("No text was held out, so nothing was measured.\n")
    return "\n".join(parts)


def _task_scores(name: str, report: dict[str, Any]) -> list[str]:
    if "skipped" in report:
        return [f"{name}: skipped, {report['skipped']}\n"]
    if views.is_classifier(report):
        return [_table(f"{name}: accuracy on test", [[row[0].name, row[1]] for row in views.task(report).rows])]
    scores = {system: fold_intervals(of) for system, of in report["test"].items()}
    return [
        _table(f"{name}: {title(metric).name}", [[system, of.get(metric)] for system, of in scores.items()])
        for metric in ANSWERS
        if metric in scores["after"]
    ]


def show_texts(metrics: Metrics) -> list[str]:
    """Return the first samples, and the first answer of each model that was finetuned to answer."""
    parts = []
    written = metrics.details.get("evaluate", {})
    if drawn := [sample for sample in written.get("samples", []) if not sample["greedy"]][:TEXTS_SHOWN]:
        split = written["prompts_from"]
        prompts = f"beginnings of documents of {split}" if split else "prompts of params.yaml"
        texts = [_text(sample["prompt"], sample["text"], ended=sample["ended"]) for sample in drawn]
        parts.append(_texts(f"{prompts}, continued ({drawn[0]['method']}; not selected)", texts))
    for name, example in _first_answers(metrics).items():
        several = len(example["messages"]) > 1
        turns = [f"{of['role']}: {of['content']}" if several else of["content"] for of in example["messages"]]
        reference = excerpt(" ".join(example["reference"].split()), f"{INDENT}reference: ", lines=1)
        answered = [*_text("\n".join(turns), example["after"]), "", *reference]
        parts.append(_texts(f"{name}: a prompt of test, answered (greedy; not selected)", [answered]))
    return parts


def show_commands(metrics: Metrics, models: Path) -> str:
    """Return the place of the model, and commands that generate with it and chat with finetuned ones."""
    export = models / "export" / "hf"
    if not (export / "config.json").is_file():
        export = models / "pretrained"  # a model that Transformers has no architecture for
    if not (export / "config.json").is_file():
        return f"There is no model in {models} yet: make repro trains it."
    prompt = shell_string(metrics.content.get("evaluate", {}).get("example_prompt", "1"))
    lines = [f"The model is in {export}. Try it:"]
    lines += [f"  python -m llm generate --model {shlex.quote(str(export))} {prompt}"]
    for name, example in _first_answers(metrics).items():
        folder = models / "finetuned" / name
        if (folder / "chat_template.jinja").is_file():
            lines.append(f"  python -m llm chat {shlex.quote(str(folder))}{_message(example['messages'])}")
    return "\n".join(lines)


def _first_answers(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Return the first example of each task whose model answers."""
    found = {name: of["answers"] for name, of in metrics.details.items() if of.get("answers")}
    return {name.removeprefix("finetune/"): answers[0] for name, answers in found.items()}


def _message(messages: list[dict[str, str]]) -> str:
    """Return the options of a command that begins a conversation as an example does; none where that is long."""
    said = {of["role"]: of["content"] for of in reversed(messages)}  # the first of each role
    options = [f" --system {shell_string(said['system'])}"] if "system" in said else []
    words = "".join([*options, " --temperature 0 ", shell_string(said["user"])])
    # A command reads an argument that begins with a dash as an option, and none can contain a null character.
    impossible = said["user"].startswith("-") or any("\0" in content for content in said.values())
    return "" if impossible or len(words) > MAX_COMMAND_CHARS else words


def _text(prompt: str, text: str, ended: bool = True) -> list[str]:
    written = excerpt(text, INDENT, ended) if text.strip() else [f"{INDENT}(nothing)"]
    return [*excerpt(prompt, PROMPT_MARK), *written]


def _texts(heading: str, texts: list[list[str]]) -> str:
    return "\n".join([heading, *(line for text in texts for line in ("", *text)), ""])


def _table(heading: str, rows: list[list[Any]]) -> str:
    width = max(24, *(len(name) + 2 for name, _ in rows))
    lines = [heading]
    for name, score in rows:
        value, _, interval = score.show(3).partition(" ") if isinstance(score, Score) else ("–", "", "")
        lines.append(f"  {name:<{width}}{value:>8} {interval}".rstrip())
    return "\n".join([*lines, ""])
