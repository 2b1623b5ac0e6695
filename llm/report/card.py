"""Model cards: what a model is, what it was made of, its scores, how to load it, hashes.

    metrics, params, config.json, files  →  README.md: the Hub's front matter, and a section for each question

Every figure is read from what the stages wrote; the words are in card.md.jinja and task_card.md.jinja.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from llm.core.outputs import file_hash
from llm.report import views
from llm.report.metrics import Metrics, fold_intervals, read_json
from llm.report.stages import VERDICTS
from llm.report.tables import Code, Table, render

ORIGINS = {
    "docstrings": "signatures and docstrings of Python packages",
    "python": "the source code of Python's standard library",
}
FILES = "the user's own files"
PYTHON_LICENSE = "https://docs.python.org/3/license.html"
LICENSES = {
    "python": f"[PSF-2.0]({PYTHON_LICENSE}), with the licenses of the software in it",
    "docstrings": "each package's own, which its distribution names",
}
HUB_LICENSES = {
    "python": {"license": "other", "license_name": "psf-2.0", "license_link": PYTHON_LICENSE},
    "docstrings": {"license": "other", "license_name": "of-each-package"},
}
TOKENIZERS = {"bpe": "byte-level BPE", "word": "words", "char": "characters"}
MAX_SHOWN_LABELS = 50


def write_card(
    metrics: Metrics, params: Mapping[str, Any], config: dict[str, Any], exported: Path, lineage: Table
) -> str:
    """Return the card of the pretrained model; `config` is its config.json, `exported` the Hugging Face folder."""
    content, sources, tasks = metrics.content, params["prepare"]["sources"], metrics.tasks()
    own_tables = {
        "sources": _sources(content["prepare"], sources),
        "tokenizer": _tokenizer(content["tokenize"], params["tokenize"]),
        "config": Table(["key", "value"], [[Code(key), _json(value)] for key, value in config.items()]),
    }
    return render(
        "card.md.jinja",
        front=_front_matter(metrics, config, {source["kind"] for source in sources}),
        metrics=content,
        config=config,
        origin=" and ".join(dict.fromkeys(ORIGINS.get(source["kind"], FILES) for source in sources)),
        weights=_weights(exported),
        tables=views.tables(metrics, params, config, lineage) | own_tables,
        verdict=VERDICTS[content["memorise"]["copies"]],
        tasks=tasks,
        chats=[name for name, of in tasks.items() if "after" in of.get("test", {})],
        settings={name: views.settings(metrics.details[f"finetune/{name}"]) for name in tasks},
        behind=[name for name, of in tasks.items() if _is_behind(of.get("test", {}))],
        gguf=_gguf(content["export"]),
    )


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_behind(test: Mapping[str, Any]) -> bool:
    return "tfidf" in test and test["tfidf"]["accuracy"] > test["pretrained"]["accuracy"]


def write_task_card(name: str, task: Mapping[str, Any], metrics: Metrics, folder: Path) -> str:
    """Return the card of a finetuned model; `task` is its section of params.yaml."""
    report = metrics.content[f"finetune/{name}"]
    if "skipped" in report:
        return f"# {name}\n\nSkipped: {report['skipped']}.\n"
    config, converted = read_json(folder / "config.json"), metrics.content.get(f"convert/{name}", {})
    labels = list(config.get("id2label", {}).values())
    pipeline = "text-classification" if labels else "text-generation"
    scores = fold_intervals(report["test"].get("pretrained") or report["test"]["after"])
    names = {"accuracy": "accuracy", "macro_f1": "f1"} if labels else {of: of for of in scores}
    front = ModelCardData(
        license="unknown",  # of the rows, and so of the model that was trained on them
        base_model=task["base"],
        base_model_relation="finetune",
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["groundup", config["model_type"], *_format_tags(converted)],
        model_name=name,
        eval_results=[
            _result(pipeline, name, "test", names[metric], score.value)
            for metric, score in scores.items()
            if metric in names
        ],
    )
    return render(
        "task_card.md.jinja",
        name=name,
        front=front.to_yaml(),
        base=task["base"],
        report=report,
        labels=labels,
        shown_labels=MAX_SHOWN_LABELS,
        weights=_weights(folder),
        notes=metrics.details[f"finetune/{name}"]["row_notes"],
        scores=views.task(report),
        pair=len(config.get("text_columns", [])) > 1,
        gguf=_gguf(converted),
        converted=converted,
    )


def _front_matter(metrics: Metrics, config: dict[str, Any], kinds: set[str]) -> str:
    """Return the YAML that the Hub reads; `kinds` are those of the sources."""
    export = metrics.content["export"]
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
    license_of: dict[str, Any] = HUB_LICENSES.get(min(kinds), {}) if len(kinds) == 1 else {}
    front = ModelCardData(
        **{"license": "unknown"} | license_of,
        library_name="groundup" if "skipped" in export else "transformers",
        tags=["groundup", config["family"], *_format_tags(export)],
        pipeline_tag=None if metrics.content["evaluate"].get("non_causal") else "text-generation",
        model_name=f"groundup-{config['family']}" if results else None,
        eval_results=results or None,
    )
    return front.to_yaml()


def _result(task: str, dataset: str, split: str, metric: str, value: float) -> EvalResult:
    where: dict[str, Any] = {"dataset_type": "groundup", "dataset_name": dataset, "dataset_split": split}
    name = metric.replace("_", " ")
    return EvalResult(task_type=task, metric_type=metric, metric_value=value, metric_name=name, **where)


def _weights(folder: Path) -> str:
    """Return the sha256 of the weights in a folder, which the Hub shows as well; empty where there are none."""
    weights = folder / "model.safetensors"
    return f"sha256 of `{weights.name}`: `{file_hash(weights)}`" if weights.is_file() else ""


def _gguf(export: Mapping[str, Any]) -> str:
    """Return the name of the first GGUF file that was written; empty where there is none."""
    formats = [name for name, of in export.get("gguf", {}).items() if "bytes" in of]
    return f"model-{formats[0].removeprefix('gguf-')}.gguf" if formats else ""


def _format_tags(export: Mapping[str, Any]) -> list[str]:
    return ["gguf"] * bool(_gguf(export)) + ["onnx"] * ("bytes" in export.get("onnx", {}))


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
            return f"{FILES}: {', '.join(source['globs'])}"
        case "url":
            return f"{source['url']}, sha256 `{source['sha256']}`"
    return f"dataset {source['dataset']}, revision {source.get('revision') or 'not fixed'}"


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
