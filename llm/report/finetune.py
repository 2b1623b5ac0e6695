"""The report of a finetuning task: details in, a page of Markdown and pictures out."""

from collections.abc import Mapping
from typing import Any

from llm.report.glossary import title
from llm.report.metrics import Score, fold_intervals
from llm.report.plots import (
    draw_bars,
    draw_confusion,
    draw_curve,
    draw_intervals,
    draw_note,
    draw_reliability,
    draw_roc,
    shorten,
)
from llm.report.tables import Table, fence

# Metrics of a classifier; those after calibration follow an arrow.
COLUMNS = (
    *("accuracy", "macro_f1", "micro_f1", "balanced_accuracy", "roc_auc", "average_precision", "log_loss"),
    *("calibration_error", "temperature", "accuracy_mean", "accuracy_std", "macro_f1_mean", "macro_f1_std"),
)
NOTES = """
In brackets: the 95% interval of 2,000 resamples of the rows of test. It covers other rows for the same model; the
variance between training seeds is not in it. After an arrow: scores divided by the temperature, which was fitted on
val. Macro-F1 is the mean over labels: a rare label counts as much as a frequent one.
"""
CALIBRATION = """
The scores of the exported model are divided by {temperature}, the temperature with the lowest log loss on val, so its
probabilities are calibrated in every client; the most probable label stays the same.
"""


def markdown(details: Mapping[str, Any]) -> str:
    """Return the report of a task: scores of all systems by metric, answers, settings, rows."""
    if "skipped" in details:
        return f"Skipped: {details['skipped']}.\n"
    parts = _classifier(details) if details["kind"] == "classify" else _answers(details)
    settings = [f"- {title(system).name}: {_setting(of)}" for system, of in details["settings"].items()]
    rows = [f"- {note}" for note in details["row_notes"]]
    return "\n".join([*parts, "", "## Settings", "", *settings, "", "## Rows", "", *rows, ""])


def _classifier(details: Mapping[str, Any]) -> list[str]:
    systems = _ordered(details)
    shown = [key for key in COLUMNS if any(key in of for of in systems.values())]
    rows = [[title(name), *(_cell(of, key) for key in shown)] for name, of in systems.items()]
    table = Table(["on test", *(title(key).name for key in shown)], rows, own=title("pretrained").name)
    sentences = [f"- {describe_difference(name, of)}" for name, of in systems.items() if "accuracy_difference" in of]
    labels = [list(of.values()) for of in details["by_label"]]
    return [
        "# A classifier on test",
        "",
        str(table),
        NOTES,
        "## Is the difference more than chance?",
        "",
        *sentences,
        "",
        "## This model, by label",
        "",
        str(Table(list(details["by_label"][0]), labels)),
        CALIBRATION.format(temperature=systems["pretrained"]["temperature"]).rstrip("\n"),
    ]


def _ordered(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of systems on test, the most accurate first."""
    return dict(sorted(details["test"].items(), key=lambda system: -system[1]["accuracy"]))


def _cell(figures: Mapping[str, Any], key: str) -> Any:
    score = fold_intervals(dict(figures)).get(key)
    calibrated = figures.get(f"{key}_at_temperature")
    return score if score is None or calibrated is None else f"{score.show()} → {Score(calibrated).show()}"


def describe_difference(other: str, of: Mapping[str, Any]) -> str:
    """Return what the difference of accuracies of `pretrained` and another system means.

    >>> ends = {"accuracy_difference_low": 0.02, "accuracy_difference_high": 0.08}
    >>> describe_difference("tfidf", {"accuracy_difference": 0.05} | ends)
    'this model, finetuned less TF-IDF: +0.0500 [+0.0200, +0.0800], above 0: this model is better.'
    """
    start = f"{title('pretrained').name} less {title(other).name}: {of['accuracy_difference']:+.4f}"
    if "accuracy_difference_low" not in of:
        return f"{start}; a single row has no interval."
    low, high = of["accuracy_difference_low"], of["accuracy_difference_high"]
    verdict = "contains 0: these rows do not show which is better"
    if low > 0:
        verdict = "above 0: this model is better"
    elif high < 0:
        verdict = f"below 0: {title(other).name} is better"
    return f"{start} [{low:+.4f}, {high:+.4f}], {verdict}."


def _answers(details: Mapping[str, Any]) -> list[str]:
    scores = {system: fold_intervals(of) for system, of in details["test"].items()}
    metrics = list(scores["after"])
    table = Table(["on test", *scores], [[title(key), *(of.get(key) for of in scores.values())] for key in metrics])
    parts = ["# A model that answers, on test", "", str(table)]
    parts += ["", f"## Answers to {len(details['answers'])} held-out prompts"]
    for number, example in enumerate(details["answers"], start=1):
        parts += ["", f"### Prompt {number}"]
        for message in example["messages"]:
            role = [f"{message['role']}:", ""] if len(example["messages"]) > 1 else []
            parts += ["", *role, fence(message["content"], "text")]
        for name, text in example.items():
            parts += ["", f"**{name}**", "", fence(text, "text")] if name != "messages" else []
    return parts


def _setting(setting: Mapping[str, Any]) -> str:
    """Return keys and values in words, a nested mapping in parentheses.

    >>> _setting({"learning_rate": 0.5, "val_loss_by_C": {"0.5": 1.25, "2.0": 1.5}})
    'learning rate 0.5, val loss by C (0.5: 1.25, 2.0: 1.5)'
    """
    inner = {
        key: f"({', '.join(f'{name}: {of}' for name, of in value.items())})" if isinstance(value, dict) else value
        for key, value in setting.items()
    }
    return ", ".join(" ".join(f"{key.replace('_', ' ')} {value}".split()) for key, value in inner.items())


def pictures(details: Mapping[str, Any]) -> dict[str, str]:
    """Return SVG pictures by name: the learning curve, and for a classifier its scores, calibration and labels."""
    if "skipped" in details:
        return {"curve": draw_note(f"skipped:\n{details['skipped']}")}
    is_classifier = details["kind"] == "classify"
    found = {"curve": draw_curve(details["curve"], "finetuning", "nats per row" if is_classifier else "nats per token")}
    if not is_classifier:
        return found
    labels, systems = details["labels"], _ordered(details)
    accuracies = {
        title(name).name: (of["accuracy"], of.get("accuracy_low"), of.get("accuracy_high"))
        for name, of in systems.items()
    }
    highlight = title("pretrained").name
    found["systems"] = draw_intervals(accuracies, "test rows", "accuracy, and its 95% interval", highlight)
    probability = f"probability of {'the most probable label' if 'confusion' in details else 'each label'}"
    found["reliability"] = draw_reliability(details["calibration"], "rows", probability, "test rows")
    if "confusion" in details:
        found["confusion"] = draw_confusion(details["confusion"], labels, "test rows")
    else:
        f1 = {of["label"]: of["f1"] for of in details["by_label"]}
        found["labels"] = draw_bars(f1, "test rows", "F1", highlight="")
    if "roc" in details:
        name = f"finding {shorten(labels[1])} in test"
        found["roc"] = draw_roc(details["roc"], details["precision_recall"], details["positive_fraction"], name)
    return found
