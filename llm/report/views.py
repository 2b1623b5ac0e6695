"""Tables of a run that the page, the cards, the summary and the documents share: views of its metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.core.outputs import file_md5, md5
from llm.report import stages
from llm.report.metrics import SPLITS, Metrics, fold_intervals
from llm.report.tables import Code, Table, Title, title

MAX_LISTED_FILES = 100  # of an artifact
NOT_ARTIFACTS = {".keep", ".gitkeep", ".folders", ".gitignore"}  # files that keep a folder in place
QUALITY = ("texts", "words", "real_words", "distinct_3grams", "repetition_flagged", "sections_parsed")
CLASSIFIER = (
    *("accuracy", "accuracy_difference", "macro_f1", "log_loss"),
    *("accuracy_mean", "accuracy_std", "macro_f1_mean", "macro_f1_std"),
)


def tables(metrics: Metrics, params: Mapping[str, Any], config: Mapping[str, Any], lineage: Table) -> dict[str, Any]:
    """Return the tables that the page and the card show; `config` is the model's config.json."""
    return {
        "corpus": corpus(metrics),
        "dropped": dropped(metrics),
        "training": training(metrics, params, config),
        "bits_per_byte": bits_per_byte(metrics),
        "differences": {split: difference(metrics, split) for split in metrics.splits()},
        "quality": quality(metrics),
        "cloze": cloze(metrics),
        "prefixes": stages.prefixes(metrics.content["memorise"]),
        "tasks": {name: task(report) for name, report in metrics.tasks().items() if "test" in report},
        "formats": formats(metrics.content["export"]),
        "lineage": lineage,
    }


def by_metric(
    systems: Mapping[str, Mapping[str, Any]], names: Sequence[str], head: str, digits: int = 4, own: str = ""
) -> Table:
    """Return a row for each metric and a column for each system or split."""
    rows = [[title(name), *(of.get(name) for of in systems.values())] for name in names]
    return Table([head, *(title(system).name for system in systems)], rows, own, digits)


def corpus(metrics: Metrics) -> Table:
    """Return the size of the text by split."""
    prepare, tokenize = metrics.content["prepare"], metrics.content["tokenize"]
    counts = {
        Title("documents", "Files, pages or rows, after cleaning."): prepare["documents"],
        Title("bytes", "The size of the prepared text in UTF-8."): prepare["bytes"],
        Title("tokens", "The units that the model reads and writes."): tokenize["tokens"],
        Title("bytes per token", "More bytes per token: more text in the context."): tokenize["bytes_per_token"],
    }
    rows = [[name, *(values.get(split) for split in SPLITS)] for name, values in counts.items()]
    return Table(["the text", *SPLITS], rows, digits=2)


def dropped(metrics: Metrics) -> Table:
    """Return the documents and labeled rows that were dropped, by reason."""
    found = {f"prepare: {reason}": of["documents"] for reason, of in metrics.content["prepare"]["dropped"].items()}
    found |= {f"label: {reason}": n for reason, n in metrics.content["label"]["dropped"].items() if n}
    return Table(["dropped", "how many"], [[reason.replace("_", " "), n] for reason, n in found.items()])


def training(metrics: Metrics, params: Mapping[str, Any], config: Mapping[str, Any]) -> Table:
    """Return the model and how it was trained."""
    pretrain, tokenize, own = metrics.content["pretrain"], metrics.content["tokenize"], params["pretrain"]
    optimizer, schedule = own["optimizer"], own["schedule"]
    rates = [key for key in ("muon_lr", "adamw_lr") if key == "adamw_lr" or optimizer["kind"] == "muon"]
    losses = {"train": pretrain["train_loss"], "val": pretrain.get("val_loss")}
    flops = pretrain["flops_per_token"] * pretrain["tokens_seen"]
    attention = "without attention" if config["family"] == "gru" else f"{config['attention']} attention"
    values = {
        Title("parameters", "Trained weights, the embedding included."): pretrain["parameters"],
        "architecture": f"{config['family']}, {attention}, {config['n_layers']} layers, width {config['d_model']}",
        Title("vocabulary", f"{tokenize['vocab_used']:,} of its tokens occur in the text."): (
            f"{tokenize['vocab_size']:,} tokens"
        ),
        "context": f"{params['sample']['context_length']:,} tokens",
        "steps": f"{pretrain['selected_step']:,} of {own['max_steps']:,}, {own['batch_size']:,} windows each",
        "tokens seen": f"{pretrain['tokens_seen']:,}, {pretrain['epochs']} epochs of the training text",
        Title("floating-point operations", "The usual measure of the cost of training."): f"{flops:.3g}",
        "optimizer": ", ".join([optimizer["kind"], *(f"{rate} {optimizer[rate]}" for rate in rates)]),
        "schedule": f"{schedule['kind']}, {schedule['warmup_steps']} steps of warmup",
        "initial weights": f"from {own['init_from']}" if own.get("init_from") else "random",
        Title("loss in nats per token", "The gap between train and val measures overfitting."): ", ".join(
            f"{split} {loss:.4f}" for split, loss in losses.items() if loss is not None
        ),
        "machine": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in pretrain["machine"].items()),
    }
    return Table(["the model", ""], [*values.items()])


def bits_per_byte(metrics: Metrics, digits: int = 4) -> Table:
    """Return the bits per byte of the model and its baselines by split, the best on the last split first."""
    splits = metrics.splits()
    found = [metrics.systems("baselines", split) | metrics.systems("evaluate", split) for split in splits]
    last = {name: of["bits_per_byte"] for name, of in found[-1].items() if "bits_per_byte" in of} if found else {}
    rows = [
        [title(name), *(of.get(name, {}).get("bits_per_byte") for of in found)]
        for name in sorted(last, key=lambda name: float(last[name].value))
    ]
    return Table(["bits per byte, less is better", *splits], rows, title("model").name, digits)


def difference(metrics: Metrics, split: str, digits: int = 4) -> str:
    """Return a sentence that compares the model with the best baseline; empty where there is none."""
    model = metrics.systems("evaluate", split).get("model", {})
    if "best_baseline" not in model:
        return ""
    best, found = title(model["best_baseline"].value).name, model["bits_per_byte_difference"].show(digits)
    return f"{title('model').name} minus {best}: {found} bits per byte, {model['verdict'].value}"


def quality(metrics: Metrics, digits: int = 4) -> Table | None:
    """Return the text quality of the model beside the true text; None where it was not measured."""
    for split in metrics.splits():
        systems = metrics.systems("evaluate", split)
        if "true_text" in systems:
            return by_metric(systems, [name for name in QUALITY if name in systems["true_text"]], split, digits)
    return None


def cloze(metrics: Metrics) -> Table | None:
    """Return the accuracy on multiple-choice tasks made of test; None where there are none."""
    systems = metrics.systems("cloze", "test")
    rows = []
    for name, accuracy in systems.get("chance", {}).items():
        task = name.removesuffix("_accuracy")
        scores = [systems["model"][f"{task}_{of}"] for of in ("items", "accuracy", "accuracy_norm")]
        rows.append([task.replace("_", " "), *scores, accuracy])
    return Table(["task", "items", "accuracy", "accuracy by character", "chance"], rows) if systems else None


def task(report: Mapping[str, Any], digits: int = 4) -> Table:
    """Return the scores of a finetuned model on test: beside other systems, or before and after."""
    systems = {system: fold_intervals(of) for system, of in report["test"].items()}
    names = dict.fromkeys(name for of in systems.values() for name in of)
    if not is_classifier(report):
        return by_metric(systems, list(names), "on test", digits)
    shown = [name for name in CLASSIFIER if name in names]
    ordered = sorted(systems.items(), key=lambda row: -row[1]["accuracy"].value)
    rows = [[title(system), *(of.get(name) for name in shown)] for system, of in ordered]
    return Table(["on test", *(title(name).name for name in shown)], rows, title("pretrained").name, digits)


def is_classifier(report: Mapping[str, Any]) -> bool:
    """Return whether the metrics of a task are those of a classifier."""
    return "pretrained" in report.get("test", {})


def settings(details: Mapping[str, Any]) -> str:
    """Return the settings of the systems of a task in Markdown, nested ones in parentheses.

    >>> print(settings({"settings": {"tfidf": {"C": 0.5, "val_loss_by_C": {"0.5": 1.25, "2.0": 1.5}}}}))
    - TF-IDF: C 0.5, val loss by C (0.5: 1.25, 2.0: 1.5)
    """

    def text(value: Any) -> str:
        return f"({', '.join(f'{key}: {of}' for key, of in value.items())})" if isinstance(value, dict) else str(value)

    lines = []
    for system, of in details.get("settings", {}).items():
        values = [f"{key.replace('_', ' ')} {text(value)}".split() for key, value in of.items() if value != {}]
        lines.append(f"- {title(system).name}: {', '.join(map(' '.join, values))}")
    return "\n".join(lines)


def formats(export: Mapping[str, Any]) -> Table:
    """Return the files of an export for other software: their size and how far their outputs are from ours."""
    files = {"Transformers": export} if "bytes" in export or "skipped" in export else {}
    files |= {**export.get("gguf", {}), **({"onnx": export["onnx"]} if export.get("onnx") else {})}
    rows = []
    for name, of in files.items():
        parity = next((f"within {of[key]}" for key in of if key.startswith("max_")), None)
        state = next((f"{key}: {of[key]}" for key in ("skipped", "unverified") if key in of), parity)
        rows.append([name, of.get("bytes"), state])
    return Table(["for", "bytes", "outputs, against our model"], rows)


def lineage(*folders: Path) -> Table:
    """Return the md5 of every file under folders; an artifact, such as data/raw, of many files has one row."""
    artifacts: dict[str, dict[str, str]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.name not in NOT_ARTIFACTS:
            artifacts.setdefault("/".join(path.parts[:2]), {})[path.as_posix()] = file_md5(path)
    rows = []
    for artifact, files in artifacts.items():
        listing = "".join(f"{of}  {name}\n" for name, of in files.items())
        folded = {f"{artifact}: {len(files):,} files, the md5 of their list": md5(listing.encode())}
        rows += [[Code(name), Code(of)] for name, of in (folded if len(files) > MAX_LISTED_FILES else files).items()]
    return Table(["file", "md5"], rows)
