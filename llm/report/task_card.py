"""The card of a finetuned model: what it was made of, what it scored, how to load it.

    models/finetuned/library  +  its metrics  →  README.md: the Hub's front matter, figures, a way in for each client

Whether it is a classifier or answers messages, and which files there are, is read from the folder itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm.export.gguf import FILES, MODELFILE
from llm.export.hf.tensors import SINGLE, read_object
from llm.export.onnx import FILE
from llm.report.markdown import fence, front_matter, table, weights_line

CLASSIFY = """
from transformers import pipeline

classify = pipeline("text-classification", "{folder}", top_k=None)
for found in classify({given}, truncation=True):
    print(found["label"], found["score"])
"""
ANSWER = """
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
messages = [{{"role": "user", "content": "Hello."}}]
asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
ids = model.generate(**asked, max_new_tokens=50)
print(tokenizer.decode(ids[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
"""
LABELS_SHOWN = 50


def task_card(name: str, folder: Path, base: str, report: dict[str, Any], rows: Sequence[str] = ()) -> str:
    """The card as Markdown, of the task `name` that was finetuned from `base` into `folder`.

    `report` is the task's metrics, and `rows` says what was left out of the file's rows and cut. The snippets load the
    model from where the pipeline puts it, models/finetuned/name.
    """
    config = read_object(folder / "config.json")
    labels = list(config["id2label"].values()) if "id2label" in config else []
    loading = _load_classifier(name, config) if labels else _load_chat(name, folder, config)
    counts = ", ".join(f"{count:,} {split}" for split, count in report["rows"].items())
    kind = "puts labels on a text" if labels else "answers messages"
    lines = [*_front_matter(name, folder, base, config, report), "", f"# {name}", ""]
    lines += [f"A model that {kind}, finetuned from `{base}` on {counts} rows.", ""]
    if labels:
        more = f" and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else ""
        lines += [f"Labels: {', '.join(f'`{label}`' for label in labels[:LABELS_SHOWN])}{more}.", ""]
    lines += [weights_line(folder / SINGLE), ""]
    lines += ["## Rows", "", *(f"- {line}" for line in rows), ""] if rows else []
    lines += ["## On test", "", *_figures(report), "", "## How to load it", "", *loading, "", "## Limits", ""]
    lines += ["- It knows the kind of text that its rows were of; of other text its figures say nothing."]
    lines += ["- It has no label for what fits none of them." if labels else "- What it answers is not checked."]
    lines += ["- `base_model` above is the folder that it was made of: a copy on the Hub wants the name of that there."]
    return "\n".join(lines) + "\n"


def _front_matter(name: str, folder: Path, base: str, config: dict[str, Any], report: dict[str, Any]) -> list[str]:
    pipeline = "text-classification" if "id2label" in config else "text-generation"
    formats = [kind for kind, there in (("gguf", _gguf(folder)), ("onnx", (folder / "onnx" / FILE).exists())) if there]
    front = {
        "license": "unknown",  # of the rows, and so of what learnt from them
        "base_model": base,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": ["groundup", config["model_type"], *formats],
    }
    dataset = {"name": name, "type": "groundup", "split": "test"}
    if results := _results(report):
        measured = [{"type": kind, "value": value, "name": title} for kind, title, value in results]
        front["metrics"] = sorted({kind for kind, _, _ in results})
        front["model-index"] = [
            {"name": name, "results": [{"task": {"type": pipeline}, "dataset": dataset, "metrics": measured}]}
        ]
    return front_matter(front)


def _results(report: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(the Hub's name, ours, value) of each figure of the finetuned model."""
    test = report["test"]
    if "pretrained" in test:
        names = {"accuracy": ("accuracy", "accuracy"), "macro_f1": ("f1", "macro F1")}
        return [(*names[key], test["pretrained"][key]) for key in names]
    return [(name, name.replace("_", " "), of["after"]) for name, of in _before_and_after(report)]


def _before_and_after(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, of) for name, of in report["test"].items() if isinstance(of, dict) and "after" in of]


def _figures(report: dict[str, Any]) -> list[str]:
    test = report["test"]
    if "pretrained" in test:
        order = sorted(test.items(), key=lambda row: -row[1]["accuracy"])
        rows = [(name.replace("_", " "), of["accuracy"], of["macro_f1"]) for name, of in order]
        return [*table(["", "accuracy", "macro-F1"], rows), "", "This model is the row `pretrained`."]
    rows = [(name.replace("_", " "), of["before"], of["after"]) for name, of in _before_and_after(report)]
    return table(["", "before", "after"], rows)


def _load_classifier(name: str, config: dict[str, Any]) -> list[str]:
    place = f"models/finetuned/{name}"
    pair = len(config.get("text_columns", [])) > 1
    given = '{"text": "the one text", "text_pair": "the other"}' if pair else '{"text": "a text"}'
    lines = _transformers(config, CLASSIFY.format(folder=place, given=given))
    return [*lines, "**This project**", "", *fence("bash", f"python -m llm predict {place} rows.csv")]


def _load_chat(name: str, folder: Path, config: dict[str, Any]) -> list[str]:
    place = f"models/finetuned/{name}"
    lines = _transformers(config, ANSWER.format(folder=place))
    if files := _gguf(folder):
        lines += ["**llama.cpp**", "", *fence("bash", f"llama-cli -m {place}/gguf/{files[0]} -cnv"), ""]
    if (folder / "gguf" / MODELFILE).exists():
        commands = f"ollama create {name} -f {place}/gguf/{MODELFILE}\nollama run {name}"
        lines += ["**Ollama**", "", *fence("bash", commands), ""]
    if (folder / "onnx" / FILE).exists():
        lines += [f"**ONNX Runtime**: `onnx/{FILE}`, with the inputs and outputs that Optimum names.", ""]
    commands = f"python -m llm chat {place}\npython -m llm serve {place}"
    return [*lines, "**This project**", "", *fence("bash", commands)]


def _transformers(config: dict[str, Any], code: str) -> list[str]:
    return ["**Transformers**", "", *fence("python", code), ""]


def _gguf(folder: Path) -> list[str]:
    """The GGUF files that there are."""
    return [file for file in FILES.values() if (folder / "gguf" / file).exists()]
