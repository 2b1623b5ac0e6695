"""Model cards: what a model is, what it was made of, its scores, how to load it, hashes.

    metrics, params, config.json, files  →  README.md: the Hub's front matter, and a section for each question

Every figure is read from what the stages wrote; the words are in card.md.jinja and task_card.md.jinja.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.core.outputs import file_hash
from llm.report import views
from llm.report.memorise import VERDICTS
from llm.report.metrics import Metrics, fold_intervals, read_json
from llm.report.tables import Table, render

WEIGHTS = "model.safetensors"
ORIGINS = {
    "docstrings": "signatures and docstrings of Python packages",
    "python": "the source code of Python's standard library",
}
PYTHON_LICENSE = "https://docs.python.org/3/license.html"
LICENSES = {
    "python": f"[PSF-2.0]({PYTHON_LICENSE}), with the licenses of the software in it",
    "docstrings": "each package's own, which its distribution names",
}
TOKENIZERS = {"bpe": "byte-level BPE", "word": "words", "char": "characters"}
MAX_SHOWN_LABELS = 50


def write_card(
    metrics: Metrics, params: Mapping[str, Any], config: dict[str, Any], exported: Path, lineage: Table
) -> str:
    """Return the card of the pretrained model; `config` is its config.json, `exported` the Hugging Face folder."""
    content, sources = metrics.content, params["prepare"]["sources"]
    tasks = metrics.tasks()
    return render(
        "card.md.jinja",
        front=_front_matter(metrics, config, sources),
        metrics=content,
        config=config,
        origin=" and ".join(dict.fromkeys(ORIGINS.get(source["kind"], "the user's own files") for source in sources)),
        weights=_identify(exported / WEIGHTS),
        tables=views.tables(metrics, params, config, lineage)
        | {
            "sources": _sources(content["prepare"], sources),
            "tokenizer": _tokenizer(content["tokenize"], params["tokenize"]),
            "config": Table(["key", "value"], [[f"`{key}`", value] for key, value in config.items()]),
        },
        differences={split: views.difference(metrics, split) for split in metrics.splits()},
        verdict=VERDICTS[content["memorise"]["copies"]],
        tasks=tasks,
        chats=[name for name, of in tasks.items() if "after" in of.get("test", {})],
        converted={name: content.get(f"convert/{name}", {}) for name in tasks},
        settings={name: views.settings(metrics.details[f"finetune/{name}"]) for name in tasks},
        behind=[name for name, report in tasks.items() if _is_behind(report)],
        gguf=_written(content["export"]),
    )


def write_task_card(name: str, task: Mapping[str, Any], metrics: Metrics, folder: Path) -> str:
    """Return the card of a finetuned model; `task` is its section of params.yaml."""
    report, details = metrics.content[f"finetune/{name}"], metrics.details[f"finetune/{name}"]
    if "skipped" in report:
        return f"# {name}\n\nSkipped: {report['skipped']}.\n"
    config, converted = read_json(folder / "config.json"), metrics.content.get(f"convert/{name}", {})
    labels = list(config.get("id2label", {}).values())
    return render(
        "task_card.md.jinja",
        name=name,
        front=_task_front_matter(name, task["base"], config, metrics),
        base=task["base"],
        report=report,
        labels=labels,
        shown_labels=MAX_SHOWN_LABELS,
        weights=_identify(folder / WEIGHTS),
        notes=details["row_notes"],
        scores=views.task(report),
        pair=len(config.get("text_columns", [])) > 1,
        gguf=_written(converted),
        converted=converted,
    )


def _identify(weights: Path) -> str:
    """Return the sha256 of a file of weights, which the Hub shows as well; empty where there is no such file."""
    return f"sha256 of `{weights.name}`: `{file_hash(weights)}`" if weights.is_file() else ""


def _written(export: Mapping[str, Any]) -> str:
    """Return the name of the first GGUF file that was written; empty where there is none."""
    formats = [name for name, of in export.get("gguf", {}).items() if "bytes" in of]
    return f"model-{formats[0].removeprefix('gguf-')}.gguf" if formats else ""


def _front_matter(metrics: Metrics, config: dict[str, Any], sources: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the Hub reads: its filters, and the scores as `model-index`."""
    content, kinds = metrics.content, {source["kind"] for source in sources}
    front: dict[str, Any] = {"license": "unknown"}
    if kinds == {"python"}:
        front = {"license": "other", "license_name": "psf-2.0", "license_link": PYTHON_LICENSE}
    elif kinds == {"docstrings"}:
        front = {"license": "other", "license_name": "of-each-package"}
    front["library_name"] = "groundup" if "skipped" in content["export"] else "transformers"
    front["tags"] = ["groundup", config["family"], *_format_tags(content["export"])]
    if not content["evaluate"].get("non_causal"):
        front["pipeline_tag"] = "text-generation"
    results = [
        _result("text-generation", "held-out text", split, "bits_per_byte", score.value)
        for split in metrics.splits()
        if (score := metrics.systems("evaluate", split)["model"].get("bits_per_byte"))
    ]
    results += [
        _result("multiple-choice", name.removesuffix("_accuracy").replace("_", " "), "test", "accuracy", score.value)
        for name, score in metrics.systems("cloze", "test").get("model", {}).items()
        if name.endswith("_accuracy")
    ]
    return front | _index(f"groundup-{config['family']}", results)


def _task_front_matter(name: str, base: str, config: dict[str, Any], metrics: Metrics) -> dict[str, Any]:
    report, converted = metrics.content[f"finetune/{name}"], metrics.content.get(f"convert/{name}", {})
    pipeline = "text-classification" if "id2label" in config else "text-generation"
    scores = report["test"].get("pretrained") or report["test"]["after"]
    names = {"accuracy": "accuracy", "macro_f1": "f1"} if views.is_classifier(report) else {of: of for of in scores}
    results = [
        _result(pipeline, name, "test", names[metric], score.value)
        for metric, score in fold_intervals(scores).items()
        if metric in names
    ]
    return {
        "license": "unknown",  # of the rows, and so of the model that learned from them
        "base_model": base,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": ["groundup", config["model_type"], *_format_tags(converted)],
        **_index(name, results),
    }


def _format_tags(export: Mapping[str, Any]) -> list[str]:
    return ["gguf"] * bool(_written(export)) + ["onnx"] * ("bytes" in export.get("onnx", {}))


def _result(task: str, name: str, split: str, metric: str, value: float) -> dict[str, Any]:
    dataset = {"name": name, "type": "groundup", "split": split}
    measured = {"type": metric, "value": value, "name": metric.replace("_", " ")}
    return {"task": {"type": task}, "dataset": dataset, "metrics": [measured]}


def _index(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return results as the Hub reads them: https://huggingface.co/docs/hub/model-cards."""
    kinds = sorted({result["metrics"][0]["type"] for result in results})
    return {"metrics": kinds, "model-index": [{"name": name, "results": results}]} if results else {}


def _sources(prepare: Mapping[str, Any], sources: list[dict[str, Any]]) -> Table:
    rows = [
        [of["name"], _origin(of), prepare["bytes_by_source"].get(of["name"], 0), LICENSES.get(of["kind"], "unknown")]
        for of in sources
    ]
    return Table(["source", "from", "bytes", "license"], rows)


def _origin(source: Mapping[str, Any]) -> str:
    match source["kind"]:
        case "python":
            modules = "" if source["include"] == ["*"] else f": {', '.join(source['include'])}"
            return f"{ORIGINS['python']}{modules}"
        case "docstrings":
            return f"{ORIGINS['docstrings']}: {', '.join(source['packages'])}"
        case "files":
            return f"the user's own files: {', '.join(source['globs'])}"
        case "url":
            return f"{source['url']}, sha256 `{source['sha256']}`"
    revision = source.get("revision")
    return f"dataset {source['dataset']}" + (f" at `{revision}`" if revision else ", no fixed revision")


def _tokenizer(tokenize: Mapping[str, Any], params: Mapping[str, Any]) -> Table:
    pattern = f", split pattern {params['pattern']}" if params["kind"] == "bpe" else ""
    pretrained = params.get("pretrained")
    rows = [
        ["kind", f"{TOKENIZERS[params['kind']]}{pattern}"],
        ["origin", f"pretrained ({pretrained})" if pretrained else "trained on train alone"],
        ["vocabulary", tokenize["vocab_size"]],
        *([f"bytes per token, {split}", value] for split, value in tokenize["bytes_per_token"].items()),
        ["decodes to the original text", "yes" if tokenize["lossless"] else "not always"],
    ]
    return Table(["tokenizer", ""], rows)


def _is_behind(report: Mapping[str, Any]) -> bool:
    test = report.get("test", {})
    return "tfidf" in test and test["tfidf"]["accuracy"] > test["pretrained"]["accuracy"]
