"""The report of a finetuning task: details in, a page of Markdown and pictures out."""

from collections.abc import Mapping
from typing import Any

from llm.report import plots, views
from llm.report.metrics import Score, fold_intervals
from llm.report.tables import Table, render, title

Details = Mapping[str, Any]
# Metrics of a classifier; those after calibration follow an arrow.
COLUMNS = (
    *("accuracy", "macro_f1", "micro_f1", "balanced_accuracy", "roc_auc", "average_precision", "log_loss"),
    *("calibration_error", "temperature", "accuracy_mean", "accuracy_std", "macro_f1_mean", "macro_f1_std"),
)
CAPTIONS = {
    "curve": "Loss over the steps of the finetuning.",
    "confusion": "Rows by actual label (down) and predicted label (across); the diagonal is correct.",
    "reliability": "Accuracy by predicted probability, before and after temperature scaling on val.",
    "roc": "ROC curve and precision-recall curve of the second label.",
    "labels": "F1 of each label.",
    "systems": "The accuracies above with their intervals.",
}


def markdown(details: Details) -> str:
    """Return the report of a task: scores of all systems, answers, settings, rows."""
    if "skipped" in details:
        return f"Skipped: {details['skipped']}.\n"
    values = _classifier_tables(details) if details["kind"] == "classify" else {"scores": views.task(details)}
    return render("finetune.md.jinja", details=details, settings=views.settings(details), **values)


def _classifier_tables(details: Details) -> dict[str, Any]:
    systems, by_label = _ordered(details), details["by_label"]
    shown = [key for key in COLUMNS if any(key in of for of in systems.values())]
    rows = [[title(name), *(_cell(of, key) for key in shown)] for name, of in systems.items()]
    return {
        "scores": Table(["on test", *(title(key).name for key in shown)], rows),
        "differences": [describe_difference(name, of) for name, of in systems.items() if "accuracy_difference" in of],
        "labels": Table(list(by_label[0]), [list(of.values()) for of in by_label]),
    }


def _ordered(details: Details) -> dict[str, Any]:
    """Return the figures of systems on test, the most accurate first."""
    return dict(sorted(details["test"].items(), key=lambda system: -system[1]["accuracy"]))


def _cell(figures: Details, key: str) -> Any:
    score, calibrated = fold_intervals(figures).get(key), figures.get(f"{key}_at_temperature")
    return score if score is None or calibrated is None else f"{score.show()} → {Score(calibrated).show()}"


def describe_difference(other: str, of: Details) -> str:
    """Return what the difference of accuracies of `pretrained` and another system means.

    >>> ends = {"accuracy_difference_low": 0.02, "accuracy_difference_high": 0.08}
    >>> describe_difference("tfidf", {"accuracy_difference": 0.05} | ends)
    'this model, finetuned minus TF-IDF: +0.0500 [+0.0200, +0.0800], above 0: this model is better.'
    """
    start = f"{title('pretrained').name} minus {title(other).name}: {of['accuracy_difference']:+.4f}"
    if "accuracy_difference_low" not in of:
        return f"{start}; a single row has no interval."
    low, high = of["accuracy_difference_low"], of["accuracy_difference_high"]
    verdict = "contains 0: these rows do not show which is better"
    if low > 0:
        verdict = "above 0: this model is better"
    elif high < 0:
        verdict = f"below 0: {title(other).name} is better"
    return f"{start} [{low:+.4f}, {high:+.4f}], {verdict}."


def pictures(details: Details) -> dict[str, str]:
    """Return SVG pictures by name, those of CAPTIONS that the kind of task has; none of a task that was skipped."""
    if "skipped" in details:
        return {}
    if details["kind"] != "classify":
        return {"curve": plots.draw_curve(details["curve"], "finetuning")}
    accuracies = {title(name).name: fold_intervals(of)["accuracy"] for name, of in _ordered(details).items()}
    labels, unit = details["labels"], "accuracy, and its 95% interval"
    probability = f"probability of {'the most probable label' if 'confusion' in details else 'each label'}"
    found = {
        "curve": plots.draw_curve(details["curve"], "finetuning", "nats per row"),
        "systems": plots.draw_bars(accuracies, "test rows", unit, title("pretrained").name),
        "reliability": plots.draw_reliability(details["calibration"], "rows", probability, "test rows"),
    }
    if "confusion" in details:
        found["confusion"] = plots.draw_confusion(details["confusion"], labels, "test rows")
    else:
        f1 = {of["label"]: Score(of["f1"]) for of in details["by_label"]}
        found["labels"] = plots.draw_bars(f1, "test rows", "F1", highlight="")
    if "roc" in details:
        points = details["roc"], details["precision_recall"], details["positive_fraction"]
        found["roc"] = plots.draw_roc(*points, f"finding {plots.shorten(labels[1])} in test")
    return found
