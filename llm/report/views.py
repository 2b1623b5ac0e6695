"""Tables of a run that the page, the cards, the summary and the documents share: views of its metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.core.hashes import file_md5, md5
from llm.report.glossary import Title, title
from llm.report.metrics import SPLITS, Metrics, fold_intervals
from llm.report.tables import Code, Table

MAX_LISTED_FILES = 100  # of an artifact
MAKERS = {
    "data/raw": "you",
    "data/given": "you",
    "data/corpus": "prepare",
    "data/labeled/builtin": "label",
    "data/labeled": "you",
    "data/tokenizer": "tokenize",
    "data/tokens": "tokenize",
    "data/windows": "sample",
    "data/baselines.parquet": "baselines",
    "data/cloze": "cloze",
    "models/pretrained": "pretrain",
    "models/export/hf": "export",
    "models/export/gguf": "export",
    "models/export/onnx": "export",
    "models/export": "card",
    "models/cards": "card",
    "models/finetuned": "finetune",
    "models/converted": "convert",
}
NOT_ARTIFACTS = {".keep", ".gitkeep", ".folders", ".gitignore"}  # files that keep a folder in place
CLASSIFIER = (
    "accuracy",
    "accuracy_difference",
    "macro_f1",
    "log_loss",
    "accuracy_mean",
    "accuracy_std",
    "macro_f1_mean",
    "macro_f1_std",
)


def corpus(metrics: Metrics) -> Table:
    """Return the size of the text by split."""
    prepare, tokenize = metrics.content["prepare"], metrics.content["tokenize"]
    rows = [
        [Title("documents", "Files, pages or rows, after cleaning."), *_by_split(prepare["documents"])],
        [Title("bytes", "The size of the prepared text in UTF-8."), *_by_split(prepare["bytes"])],
        [Title("tokens", "The units that the model reads and writes."), *_by_split(tokenize["tokens"])],
        [
            Title("bytes per token", "More bytes per token: more text in the model's context."),
            *_by_split(tokenize["bytes_per_token"]),
        ],
    ]
    return Table(["the text", *SPLITS], rows, digits=2)


def _by_split(values: Mapping[str, Any]) -> list[Any]:
    return [values.get(split) for split in SPLITS]


def dropped(metrics: Metrics) -> Table:
    """Return the documents and labeled rows that were dropped, by reason."""
    found = {f"prepare: {reason}": of["documents"] for reason, of in metrics.content["prepare"]["dropped"].items()}
    found |= {f"label: {reason}": n for reason, n in metrics.content["label"]["dropped"].items() if n}
    return Table(["dropped", "how many"], [[reason.replace("_", " "), n] for reason, n in found.items()])


def training(metrics: Metrics, params: Mapping[str, Any], config: Mapping[str, Any]) -> Table:
    """Return the model and how it was trained; `config` is its config.json or the section `model`."""
    pretrain, tokenize, own = metrics.content["pretrain"], metrics.content["tokenize"], params["pretrain"]
    optimizer, schedule = own["optimizer"], own["schedule"]
    rates = [key for key in ("muon_lr", "adamw_lr") if key == "adamw_lr" or optimizer["kind"] == "muon"]
    losses = {"train": pretrain["train_loss"], "val": pretrain.get("val_loss")}
    flops = pretrain["flops_per_token"] * pretrain["tokens_seen"]
    attention = "without attention" if config["family"] == "gru" else f"{config['attention']} attention"
    rows = [
        [Title("parameters", "The numbers that training sets."), pretrain["parameters"]],
        ["architecture", f"{config['family']}, {attention}, {config['n_layers']} layers, width {config['d_model']}"],
        [
            Title("vocabulary", f"{tokenize['vocab_used']:,} of its tokens occur in the text."),
            f"{tokenize['vocab_size']:,} tokens",
        ],
        ["context", f"{params['sample']['context_length']:,} tokens"],
        ["steps", f"{pretrain['selected_step']:,} of {own['max_steps']:,}, {own['batch_size']:,} windows each"],
        ["tokens seen", f"{pretrain['tokens_seen']:,}, {pretrain['epochs']} epochs of the training text"],
        [Title("floating-point operations", "The usual measure of the cost of training."), f"{flops:.3g}"],
        ["optimizer", ", ".join([optimizer["kind"], *(f"{rate} {optimizer[rate]}" for rate in rates)])],
        ["schedule", f"{schedule['kind']}, {schedule['warmup_steps']} steps of warmup"],
        ["initial weights", f"from {own['init_from']}" if own.get("init_from") else "random"],
        [
            Title("loss in nats per token", "Its gap is what does not generalize."),
            ", ".join(f"{split} {loss:.4f}" for split, loss in losses.items() if loss is not None),
        ],
        ["machine", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in pretrain["machine"].items())],
    ]
    return Table(["the model", ""], rows)


def bits_per_byte(metrics: Metrics, digits: int = 4) -> Table:
    """Return the bits per byte of the model and its baselines by split, the best on the last split first."""
    scores = {
        system: [metrics.score(stage, split, system, "bits_per_byte") for split in metrics.splits("evaluate")]
        for stage in ("baselines", "evaluate")
        for system in _systems(metrics, stage)
    }
    rows = sorted((row for row in scores.items() if row[1][-1]), key=lambda row: row[1][-1].value)  # type: ignore[union-attr]
    head = ["bits per byte, less is better", *metrics.splits("evaluate")]
    return Table(head, [[title(system), *cells] for system, cells in rows], title("model").name, digits)


def _systems(metrics: Metrics, stage: str) -> list[str]:
    splits = metrics.splits("evaluate")
    return list(metrics.content.get(stage, {}).get(splits[-1], {})) if splits else []


def difference(metrics: Metrics, split: str, digits: int = 4) -> str:
    """Return a sentence that compares the model with the best baseline; empty where there is none."""
    best, verdict, of = (
        metrics.score("evaluate", split, "model", name)
        for name in ("best_baseline", "verdict", "bits_per_byte_difference")
    )
    if not best or not of or not verdict:
        return ""
    return f"{title('model').name} less {title(best.value).name}: {of.show(digits)} bits per byte, {verdict.value}"


def quality(metrics: Metrics, digits: int = 4) -> Table | None:
    """Return the text quality of the model beside the true text; None where it was not measured."""
    found = metrics.scores[(metrics.scores.stage == "evaluate") & (metrics.scores.system == "true_text")]
    if found.empty:
        return None
    split, names = found.split.iloc[0], list(found.metric)
    return Table.of(metrics.view("metric", "system", stage="evaluate", split=split, metric=names), split, digits)


def cloze(metrics: Metrics) -> Table | None:
    """Return the accuracy on multiple-choice tasks made of test; None where there are none."""
    systems = metrics.content["cloze"].get("test")
    if not systems:
        return None
    model, chance = fold_intervals(systems["model"]), fold_intervals(systems["chance"])
    tasks, names = [name.removesuffix("_accuracy") for name in chance], ("items", "accuracy", "accuracy_norm")
    rows = [
        [task.replace("_", " "), *(model[f"{task}_{name}"] for name in names), chance[f"{task}_accuracy"]]
        for task in tasks
    ]
    return Table(["task", "items", "accuracy", "accuracy by character", "chance"], rows)


def task(report: Mapping[str, Any], digits: int = 4) -> Table:
    """Return the scores of a finetuned model on test: beside other systems, or before and after."""
    scores = {system: fold_intervals(of) for system, of in report["test"].items()}
    if "pretrained" not in scores:
        names = dict.fromkeys(name for of in scores.values() for name in of)
        rows = [[title(name), *(of.get(name) for of in scores.values())] for name in names]
        return Table(["on test", *scores], rows, digits=digits)
    shown = [name for name in CLASSIFIER if any(name in of for of in scores.values())]
    ordered = sorted(scores.items(), key=lambda row: -row[1]["accuracy"].value)
    rows = [[title(system), *(of.get(name) for name in shown)] for system, of in ordered]
    return Table(["on test", *(title(name).name for name in shown)], rows, title("pretrained").name, digits)


def settings(details: Mapping[str, Any]) -> str:
    """Return the settings of the systems of a task in Markdown, nested ones in parentheses.

    >>> print(settings({"settings": {"tfidf": {"C": 0.5, "val_loss_by_C": {"0.5": 1.25, "2.0": 1.5}}}}))
    - TF-IDF: C 0.5, val loss by C (0.5: 1.25, 2.0: 1.5)
    """

    def text(value: Any) -> str:
        return f"({', '.join(f'{key}: {of}' for key, of in value.items())})" if isinstance(value, dict) else str(value)

    lines = []
    for system, of in details.get("settings", {}).items():
        values = (" ".join(f"{key.replace('_', ' ')} {text(value)}".split()) for key, value in of.items())
        lines.append(f"- {title(system).name}: {', '.join(values)}")
    return "\n".join(lines)


def is_classifier(report: Mapping[str, Any]) -> bool:
    """Return whether the metrics of a task are those of a classifier."""
    return "pretrained" in report.get("test", {})


def formats(metrics: Mapping[str, Any]) -> Table:
    """Return the files of an export for other software: their size and how far their outputs are from ours."""
    files = {"Transformers": metrics} if "bytes" in metrics or "skipped" in metrics else {}
    files |= {**metrics.get("gguf", {}), **({"onnx": metrics["onnx"]} if metrics.get("onnx") else {})}
    rows = []
    for name, of in files.items():
        parity = next((f"within {of[key]}" for key in of if key.startswith("max_")), None)
        state = next((f"{key}: {of[key]}" for key in ("skipped", "unverified") if key in of), parity)
        rows.append([name, of.get("bytes"), state])
    return Table(["for", "bytes", "outputs, against our model"], rows)


def lineage(*folders: Path) -> Table:
    """Return the md5 of every file under folders, in order; an artifact of many files has one row."""
    by_artifact: dict[str, dict[str, str]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        name = path.as_posix()
        if path.name not in NOT_ARTIFACTS:
            artifact = next((of for of in MAKERS if name.startswith(of)), path.parent.as_posix())
            by_artifact.setdefault(artifact, {})[name] = file_md5(path)
    rows = []
    for artifact, files in by_artifact.items():
        listing = "".join(f"{of}  {name}\n" for name, of in files.items())
        folded = {f"{artifact}: {len(files):,} files, the md5 of their list": md5(listing.encode())}
        shown = folded if len(files) > MAX_LISTED_FILES else files
        rows += [[MAKERS.get(artifact, ""), Code(name), Code(of)] for name, of in shown.items()]
    return Table(["made by", "file", "md5"], rows)
