"""A run on one screen: scores, texts of the model, commands that use it."""

import shlex
import unicodedata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from llm.report import views
from llm.report.metrics import Metrics, Score, fold_intervals, read_metrics
from llm.report.tables import shell_string, title

ANSWERS = ("chosen_is_likelier", "answer_bits_per_byte")  # shown of a model that answers, before and after
TEXTS_SHOWN = 2
INDENT, PROMPT_MARK = " " * 4, "  > "
WIDTH, LINES = 88, 12  # of an excerpt: columns with the mark, and lines
ELLIPSIS = "…"
MAX_COMMAND_CHARS = 200  # of options and message
INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}  # categories: controls, surrogates, separators of lines and paragraphs
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they reorder the text after them


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


def _table(heading: str, rows: list[list[Any]]) -> str:
    width = max(24, *(len(name) + 2 for name, _ in rows))
    lines = [heading]
    for name, score in rows:
        value, _, interval = score.show(3).partition(" ") if isinstance(score, Score) else ("–", "", "")
        lines.append(f"  {name:<{width}}{value:>8} {interval}".rstrip())
    return "\n".join([*lines, ""])


def show_texts(metrics: Metrics) -> list[str]:
    """Return the first samples, and the first answer of each model that was finetuned to answer."""
    parts = []
    written = metrics.details.get("evaluate", {})
    if drawn := [sample for sample in written.get("samples", []) if not sample["greedy"]][:TEXTS_SHOWN]:
        split = written["prompts_from"]
        prompts = f"beginnings of documents of {split}" if split else "prompts of params.yaml"
        parts += [f"{prompts}, continued ({drawn[0]['method']}; not selected)"]
        for sample in drawn:
            parts += ["", *_text(sample["prompt"], sample["text"], ended=sample["ended"])]
        parts += [""]
    for name, example in _first_answers(metrics).items():
        several = len(example["messages"]) > 1
        turns = [f"{of['role']}: {of['content']}" if several else of["content"] for of in example["messages"]]
        parts += [f"{name}: a prompt of test, answered (greedy; not selected)", ""]
        parts += [*_text("\n".join(turns), example["after"]), ""]
        parts += [*excerpt(" ".join(example["reference"].split()), f"{INDENT}reference: ", lines=1), ""]
    return parts


def _text(prompt: str, text: str, ended: bool = True) -> list[str]:
    written = excerpt(text, INDENT, ended) if text.strip() else [f"{INDENT}(nothing)"]
    return [*excerpt(prompt, PROMPT_MARK), *written]


def _first_answers(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Return the first example of each task whose model answers."""
    found = {name: of["answers"] for name, of in metrics.details.items() if of.get("answers")}
    return {name.removeprefix("finetune/"): answers[0] for name, answers in found.items()}


def show_commands(metrics: Metrics, models: Path) -> str:
    """Return the place of the model, and commands that generate with it and chat with finetuned ones."""
    # models/pretrained where Transformers has no architecture for the model
    folders = [folder for folder in (models / "export/hf", models / "pretrained") if (folder / "config.json").is_file()]
    if not folders:
        return f"There is no model in {models} yet: make repro trains it."
    prompt = shell_string(metrics.content.get("evaluate", {}).get("example_prompt", "1"))
    lines = [f"The model is in {folders[0]}. Try it:"]
    lines += [f"  python -m llm generate --model {shlex.quote(str(folders[0]))} {prompt}"]
    for name, example in _first_answers(metrics).items():
        folder = models / "finetuned" / name
        if (folder / "chat_template.jinja").is_file():
            lines.append(f"  python -m llm chat {shlex.quote(str(folder))}{_message(example['messages'])}")
    return "\n".join(lines)


def _message(messages: list[dict[str, str]]) -> str:
    """Return the options of a command that begins a conversation as an example does; none where that is long."""
    said = {of["role"]: of["content"] for of in reversed(messages)}  # the first of each role
    system = f" --system {shell_string(said['system'])}" if "system" in said else ""
    words = f"{system} --temperature 0 {shell_string(said['user'])}"
    # A command reads an argument that begins with a dash as an option, and none can contain a null character.
    impossible = said["user"].startswith("-") or any("\0" in content for content in said.values())
    return "" if impossible or len(words) > MAX_COMMAND_CHARS else words


def excerpt(text: str, mark: str = "", ended: bool = True, lines: int = LINES) -> list[str]:
    r"""Return the first `lines` lines, each prefixed with `mark`; "…" marks a text that is truncated or unfinished.

    >>> excerpt("It rains.\n\nIt\x07 rains\non", "> ", lines=3)
    ['> It rains.', '>', '> It\\x07 rains …']
    """
    width = WIDTH - len(mark)
    start = text[: 4 * WIDTH * lines]  # more than is shown, unless most of it has no width
    console = Console(width=width)
    wrapped = [
        part.plain.rstrip()
        for line in visible(start).strip("\n").rstrip().split("\n")
        for part in Text(line).wrap(console, width, tab_size=4) or [Text()]
    ]
    shown = wrapped[:lines]
    if len(wrapped) > lines or len(start) < len(text) or not ended:
        last = Text(shown[-1])
        last.truncate(width - 2)
        shown[-1] = f"{last.plain.rstrip()} {ELLIPSIS}".lstrip()
    return [f"{mark}{line}".rstrip() for line in shown]


def visible(text: str) -> str:
    r"""Return a text with its control characters, other than tabs and line breaks, as escapes.

    >>> visible("a\x1b[2J\tb\u202e")
    'a\\x1b[2J\tb\\u202e'
    """
    return "".join(char if _is_safe(char) else char.encode("unicode_escape").decode() for char in text)


def _is_safe(char: str) -> bool:
    is_ordering = unicodedata.bidirectional(char) in BIDIRECTIONAL
    return char in "\n\t" or (unicodedata.category(char) not in INVISIBLE and not is_ordering)
