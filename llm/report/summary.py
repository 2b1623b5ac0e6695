"""What a run came to, on one screen: where the model is, what it scored, how to try it."""

import shlex
from pathlib import Path
from typing import Any

from llm.report.card import read_metrics, tasks_to_show
from llm.report.excerpt import excerpt
from llm.report.markdown import shell_string

# What is shown of a model that answers, before and after its finetuning.
ANSWERS = {
    "chosen_is_likelier": "share of test pairs whose better answer is the likelier",
    "answer_bits_per_byte": "bits per byte of held-out answers",
}
TEXTS_SHOWN = 2
INDENT, PROMPT_MARK = " " * 4, "  > "
LONGEST_MESSAGE = 200  # characters of a command's options and message


def describe_run(metrics: Path, reports: Path, export: Path) -> str:
    """Figures, texts of the model and how to try it; empty where no run left metrics."""
    figures = summarise_run(metrics)
    return figures and "\n".join([figures, *show_texts(reports), how_to_try(metrics, reports, export)])


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
    if evaluation.get("sees_the_future"):
        parts.append("Its attention reads what it has to predict: its bits per byte are no measure.\n")
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


def show_texts(reports: Path) -> list[str]:
    """Return the first texts of evaluation, and the first answer of each model that was finetuned to answer."""
    parts = []
    written = _read(reports / "samples.json")
    if drawn := [sample for sample in written.get("samples", []) if not sample["greedy"]][:TEXTS_SHOWN]:
        split = written["prompts_of"]
        prompts = f"beginnings of documents of {split}" if split else "prompts of params.yaml"
        texts = [_text(sample["prompt"], sample["text"], ended=sample["ended"]) for sample in drawn]
        parts.append(_texts(f"{prompts}, continued ({drawn[0]['way']}; not selected)", texts))
    for name, example in _first_answers(reports).items():
        several = len(example["messages"]) > 1
        turns = [f"{of['role']}: {of['content']}" if several else of["content"] for of in example["messages"]]
        reference = excerpt(" ".join(example["reference"].split()), f"{INDENT}reference: ", lines=1)
        answered = [*_text("\n".join(turns), example["after"]), "", *reference]
        parts.append(_texts(f"{name}: a message of test, answered (greedy; not selected)", [answered]))
    return parts


def how_to_try(metrics: Path, reports: Path, export: Path) -> str:
    """Where the model is, and commands: one continues a beginning of its own kind of text, others ask for an answer."""
    if not (export / "config.json").is_file():
        return f"There is no model in {export} yet: make repro trains it."
    prompt = shell_string(_read(metrics / "evaluate.json").get("example_prompt", "1"))
    lines = [f"The model is in {export}. Try it:"]
    lines += [f"  python -m llm generate --model {shlex.quote(str(export))} {prompt}"]
    for name, example in _first_answers(reports).items():
        folder = export.parent / "finetuned" / name
        if (folder / "chat_template.jinja").is_file():
            lines.append(f"  python -m llm chat {shlex.quote(str(folder))}{_message(example['messages'])}")
    return "\n".join(lines)


def _first_answers(reports: Path) -> dict[str, dict[str, Any]]:
    """The first example of each task whose model answers."""
    found = {path.stem: _read(path)["answers"] for path in sorted((reports / "finetune").glob("*.json"))}
    return {name: answers[0] for name, answers in found.items() if answers}


def _message(messages: list[dict[str, str]]) -> str:
    """The words of a command that begin a conversation as an example does; none where that is long."""
    said = {of["role"]: of["content"] for of in reversed(messages)}  # the first of each role
    options = [f" --system {shell_string(said['system'])}"] if "system" in said else []
    words = "".join([*options, " --temperature 0 ", shell_string(said["user"])])
    # A command takes what begins with a dash for an option, and none can hold a null character.
    impossible = said["user"].startswith("-") or any("\0" in content for content in said.values())
    return "" if impossible or len(words) > LONGEST_MESSAGE else words


def _text(prompt: str, text: str, ended: bool = True) -> list[str]:
    written = excerpt(text, INDENT, ended) if text.strip() else [f"{INDENT}(nothing)"]
    return [*excerpt(prompt, PROMPT_MARK), *written]


def _texts(title: str, texts: list[list[str]]) -> str:
    return "\n".join([title, *(line for text in texts for line in ("", *text)), ""])


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
