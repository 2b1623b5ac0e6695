"""What scores on val and test come to: figures with intervals, a table by label, pictures, a report to be read.

    val: actual, scores ──fit_temperature──► T ─┐
    test: actual, scores ───────────────────────┴─ scores / T ─► probabilities ─► measure, by_label, draw_plots
    the same test rows, scored by two models ──difference──► how much more often the first is right

A row with one label has its number in `actual` (N,), and a softmax over its scores (N, L) gives probabilities. Where
a row has any number of labels, `actual` is (N, L) of 0 and 1, and every label has a sigmoid of its own.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from llm.evaluate.bootstrap import LEVEL, MAX_DRAWS, N_RESAMPLES, calibration, ratio_interval
from llm.report.markdown import table
from llm.report.plots import draw_bars, draw_confusion, draw_curve, draw_intervals, draw_reliability, draw_roc, shorten

N_BINS = 15
MOST_TEMPERATURE = 100.0  # and 1 / 100 is the least
COLUMNS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss (nats)",
    "calibration_error": "calibration error",
    "temperature": "temperature",
}
NOTES = [
    "In brackets: an interval of 95%, by drawing rows of test anew (2,000 times). It holds the model as it is; another",
    "seed of its training is no part of it. After an arrow: with the scores divided by the temperature, which was",
    "fitted on val. Macro-F1 is the mean over labels, so a rare one counts as much as a frequent one.",
]


@dataclass(frozen=True)
class Scored:
    """The labels of a split's rows, (N,) or (N, L) of 0 and 1, and the logits (N, L) that they were given."""

    actual: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def is_multilabel(self) -> bool:
        """Whether a row has any number of labels."""
        return self.actual.ndim == 2

    def predict(self) -> NDArray[np.int64]:
        """The likeliest label of each row (N,), the first of equals; or every one above a probability of 0.5 (N, L)."""
        return (self.scores > 0).astype(np.int64) if self.is_multilabel else self.scores.argmax(axis=1)

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """The probability (N, L) of each label."""
        scaled = self.scores.astype(np.float64) / temperature
        return expit(scaled) if self.is_multilabel else softmax(scaled, axis=1)

    def is_right(self) -> NDArray[np.int64]:
        """1 for a row whose label is the predicted one, or whose labels are exactly the predicted ones; (N,)."""
        same = self.predict() == self.actual
        return (same.all(axis=1) if self.is_multilabel else same).astype(np.int64)


@dataclass(frozen=True)
class Rival:
    """What a baseline made of val and test, and the setting that it was used with."""

    val: Scored
    test: Scored
    setting: dict[str, Any]


def log_loss(scored: Scored, temperature: float = 1.0) -> float:
    """Negative log-likelihood in nats of a row's label; where labels are any number, the mean of a row and a label.

    >>> round(log_loss(Scored(np.array([1]), np.log([[0.2, 0.8]]))), 4)  # -log 0.8
    0.2231
    """
    scaled = scored.scores.astype(np.float64) / temperature
    if scored.is_multilabel:
        return float(-log_expit(np.where(scored.actual == 1, scaled, -scaled)).mean())
    return float(-np.take_along_axis(log_softmax(scaled, axis=1), scored.actual[:, None], axis=1).mean())


def fit_temperature(val: Scored) -> float:
    """The temperature that val's log loss is lowest at when logits are divided by it (Guo et al. 2017, section 4.2).

    The same label stays the likeliest. 1 where no other is better, and where all of val is right: the lowest loss is
    then at 0, and nothing says how sure to be. Else between 1 / MOST_TEMPERATURE and MOST_TEMPERATURE.
    """
    if val.is_right().all():
        return 1.0
    bound = float(np.log(MOST_TEMPERATURE))
    found = minimize_scalar(lambda log: log_loss(val, np.exp(log)), bounds=(-bound, bound), method="bounded")
    return round(float(np.exp(found.x)), 5) if found.fun < log_loss(val) else 1.0


def reliability(scored: Scored, temperature: float = 1.0) -> tuple[list[dict[str, Any]], float]:
    """How often a probability comes true: a row a bin of N_BINS equally wide ones, and the expected calibration error.

    The probability is that of the likeliest label; where labels are any number, that of every label of every row. The
    error is the mean of |confidence - accuracy|, bins weighted by what is in them (Guo et al. 2017, arXiv:1706.04599).

    >>> rows, error = reliability(Scored(np.array([0, 1]), np.log([[0.75, 0.25], [0.75, 0.25]])))
    >>> rows, error  # both say 0.75, one is right
    ([{'from': 0.7333, 'to': 0.8, 'count': 2, 'confidence': 0.75, 'accuracy': 0.5}], 0.25)
    """
    probability = scored.probabilities(temperature)
    came = scored.actual if scored.is_multilabel else scored.is_right()
    confidence = (probability if scored.is_multilabel else probability.max(axis=1)).ravel()
    return calibration(confidence, came.ravel(), N_BINS)


def measure(test: Scored, temperature: float, seed: int) -> dict[str, Any]:
    """Figures of test: shares rounded to 4 places, nats to 5; `_low` and `_high` are the ends of a 95% interval.

    `log_loss` and `calibration_error` are those of the scores as they are, with `_at_temperature` those after val's
    temperature. Of two labels there are ROC AUC and average precision too, the second being the one to be found.
    Where labels are any number, accuracy is the share of rows with exactly the right ones, and the balanced one, which
    is for one label a row, gives way to micro-F1. The same seed gives the same intervals.
    """
    rng = np.random.default_rng(seed)
    right, predicted = test.is_right(), test.predict()
    found = _with_interval("accuracy", float(right.mean()), ratio_interval(right, np.ones_like(right), rng))
    found |= _with_interval("macro_f1", *_macro_f1_and_interval(test, rng))
    if test.is_multilabel:
        found["micro_f1"] = round(float(f1_score(test.actual, predicted, average="micro", zero_division=0)), 4)
    else:
        known = np.unique(test.actual)
        found["balanced_accuracy"] = round(
            float(recall_score(test.actual, predicted, labels=known, average="macro")), 4
        )
    if _has_two_labels(test):
        score = test.probabilities()[:, 1]
        found["roc_auc"] = round(float(roc_auc_score(test.actual, score)), 4)
        found["average_precision"] = round(float(average_precision_score(test.actual, score)), 4)
    for name, of in (("", 1.0), ("_at_temperature", temperature)):
        found[f"log_loss{name}"] = round(log_loss(test, of), 5)
        found[f"calibration_error{name}"] = reliability(test, of)[1]
    return found | {"temperature": temperature}


def difference(a: Scored, b: Scored, seed: int) -> dict[str, float]:
    """The accuracy of `a` less that of `b` on the same rows, with its 95% interval: both are drawn row by row.

    What is hard for one is hard for the other, so a pair tells more than two intervals side by side.
    """
    assert np.array_equal(a.actual, b.actual), "other rows"
    apart = a.is_right() - b.is_right()
    interval = ratio_interval(apart, np.ones_like(apart), np.random.default_rng(seed))
    return _with_interval("difference", float(apart.mean()), interval)


def by_label(test: Scored, labels: Sequence[str]) -> pd.DataFrame:
    """Precision, recall and F1 of each label, 0 where there is nothing to divide by, and `rows`, how many have it."""
    numbers = np.arange(len(labels))
    columns = precision_recall_fscore_support(test.actual, test.predict(), labels=numbers, zero_division=0)
    named = dict(zip(["precision", "recall", "f1", "rows"], columns, strict=True))
    return pd.DataFrame(named, index=pd.Index(labels, name="label")).round(4).astype({"rows": int})


def _with_interval(name: str, value: float, interval: tuple[float, float] | None) -> dict[str, float]:
    ends = {} if interval is None else {f"{name}_low": interval[0], f"{name}_high": interval[1]}
    return {key: round(of, 4) for key, of in ({name: value} | ends).items()}


def _macro_f1_and_interval(test: Scored, rng: np.random.Generator) -> tuple[float, tuple[float, float] | None]:
    """Macro-F1, the mean over the labels that a row has or is predicted to have; its bootstrap interval over rows."""
    n, n_labels, predicted = len(test.actual), test.scores.shape[1], test.predict()
    # Rows that look alike are drawn together: of one label a row there are at most L² kinds.
    if test.is_multilabel:
        kinds, counts = np.unique(np.hstack([test.actual, predicted]), axis=0, return_counts=True)
        actual, given = kinds[:, :n_labels], kinds[:, n_labels:]
    else:
        kinds, counts = np.unique(np.stack([test.actual, predicted], axis=1), axis=0, return_counts=True)
        actual, given = np.eye(n_labels)[kinds[:, 0]], np.eye(n_labels)[kinds[:, 1]]
    hits, claims = (actual * given).astype(np.float64), (actual + given).astype(np.float64)  # (K, L)
    whole = float(_macro_f1(counts[None], hits, claims)[0])
    if n < 2:
        return whole, None
    most = max(MAX_DRAWS // max(len(counts), n_labels), 1)
    drawn = [
        _macro_f1(rng.multinomial(n, counts / n, size=min(most, N_RESAMPLES - at)), hits, claims)
        for at in range(0, N_RESAMPLES, most)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return whole, (float(low), float(high))


def _macro_f1(counts: NDArray[np.int64], hits: NDArray[np.float64], claims: NDArray[np.float64]) -> NDArray[np.float64]:
    """Macro-F1 (R,) of R samples with so many rows of each kind (R, K).

    A kind has `hits` (K, L) of labels that are both right and predicted, and `claims` (K, L) that add one for either.
    """
    right, either = counts @ hits, counts @ claims  # (R, L)
    f1 = 2 * right / np.maximum(either, 1)
    return f1.sum(axis=1) / np.maximum((either > 0).sum(axis=1), 1)


def _has_two_labels(test: Scored) -> bool:
    return not test.is_multilabel and test.scores.shape[1] == 2 and len(np.unique(test.actual)) == 2


def draw_plots(
    folder: Path, labels: Sequence[str], test: Scored, temperature: float, curve_rows: Sequence[dict[str, float]]
) -> None:
    """The pictures of one classifier, as SVG: its learning curve, its reliability, and what its labels allow.

    One label a row: the confusion matrix, also as confusion.csv, which DVC's plots take, with a row a prediction. Two
    labels: ROC and precision-recall curve. Any number of labels a row: the F1 of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"curve": draw_curve(curve_rows, "finetuning", "nats per row")}
    series = {
        "as trained": reliability(test)[0],
        f"at temperature {temperature:.2f}": reliability(test, temperature)[0],
    }
    of = "each label" if test.is_multilabel else "the likeliest label"
    pictures["reliability"] = draw_reliability(series, "rows", f"probability of {of}", "test rows")
    if test.is_multilabel:
        f1 = dict(zip(labels, by_label(test, labels)["f1"], strict=True))
        pictures["labels"] = draw_bars(f1, "test rows", "F1", highlight="")
        _write_pictures(folder, pictures)
        return
    predicted = test.predict()
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        writer.writerows([labels[a], labels[p]] for a, p in zip(test.actual, predicted, strict=True))
    counts = confusion_matrix(test.actual, predicted, labels=np.arange(len(labels)))
    pictures["confusion"] = draw_confusion(counts.tolist(), labels, "test rows")
    if _has_two_labels(test):
        score = test.probabilities()[:, 1]
        false_positive, recall, _ = roc_curve(test.actual, score)
        precision, found, _ = precision_recall_curve(test.actual, score)
        share = float(test.actual.mean())
        pictures["roc"] = draw_roc(
            list(zip(false_positive, recall, strict=True)),
            list(zip(found, precision, strict=True)),
            share,
            f"finding {shorten(labels[1])} in test",
        )
    _write_pictures(folder, pictures)


def _write_pictures(folder: Path, pictures: Mapping[str, str]) -> None:
    for name, svg in pictures.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


def draw_rows(folder: Path, figures: Mapping[str, Mapping[str, Any]], highlight: str = "pretrained") -> None:
    """rows.svg: the accuracy of every row of the task, by `measure`, with its interval, the best on top."""
    ordered = sorted(figures.items(), key=lambda row: -row[1]["accuracy"])
    values = {
        name.replace("_", " "): (of["accuracy"], of.get("accuracy_low"), of.get("accuracy_high"))
        for name, of in ordered
    }
    rows = draw_intervals(values, "test rows", "accuracy, and its 95% interval", highlight)
    _write_pictures(folder, {"rows": rows})


def write_report(
    path: Path,
    rows: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
    labels: pd.DataFrame,
    differences: Mapping[str, Mapping[str, float]],
    name: str = "pretrained",
) -> None:
    """All of a task on one page of Markdown: its rows, what tells them apart, the labels of the row `name`.

    `rows` are figures, by `measure`, and setting; `labels` is what `by_label` says of the row `name`; `differences` are
    `name` less each other row, by `difference`.
    """
    ordered = sorted(rows.items(), key=lambda row: -row[1][0]["accuracy"])
    shown = {key: title for key, title in COLUMNS.items() if any(key in figures for figures, _ in rows.values())}
    lines = [
        "# What the classifier came to on test",
        "",
        *table(
            ["on test", *shown.values()],
            [[_plain(row), *(_cell(figures, key) for key in shown)] for row, (figures, _) in ordered],
        ),
        "",
        *NOTES,
    ]
    if differences:
        lines += ["", "## Is the difference more than chance?", ""]
        lines += [f"- {describe_difference(name, other, of)}" for other, of in differences.items()]
    lines += ["", f"## {_plain(name).capitalize()}, by label", ""]
    lines += table([str(labels.index.name), *labels.columns], labels.itertuples())
    lines += ["", "## Settings", ""]
    lines += [f"- {_plain(row)}: {_setting(setting)}" for row, (_, setting) in ordered]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_difference(name: str, other: str, of: Mapping[str, float]) -> str:
    """What a difference by `difference` says, in a sentence.

    >>> found = {"difference": 0.05, "difference_low": 0.02, "difference_high": 0.08}
    >>> describe_difference("pretrained", "random_weights", found)
    'pretrained less random weights: +0.0500 [+0.0200, +0.0800], above 0 throughout: pretrained is better.'
    """
    name, other = _plain(name), _plain(other)
    start = f"{name} less {other}: {of['difference']:+.4f}"
    if "difference_low" not in of:
        return f"{start}; a single row has no interval."
    low, high = of["difference_low"], of["difference_high"]
    if low > 0:
        verdict = f"above 0 throughout: {name} is better"
    elif high < 0:
        verdict = f"below 0 throughout: {other} is better"
    else:
        verdict = "with 0 in it: these rows cannot tell which is better"
    return f"{start} [{low:+.4f}, {high:+.4f}], {verdict}."


def _cell(figures: Mapping[str, Any], key: str) -> str:
    if key not in figures:
        return ""
    text = str(figures[key])
    if f"{key}_low" in figures:
        text += f" [{figures[f'{key}_low']}, {figures[f'{key}_high']}]"
    if f"{key}_at_temperature" in figures:
        text += f" → {figures[f'{key}_at_temperature']}"
    return text


def _setting(setting: Mapping[str, Any]) -> str:
    """Keys and values in words; a mapping's own in brackets.

    >>> _setting({"rate": 0.5, "val_loss_by_rate": {"0.5": 1.25, "2.0": 1.5}})
    'rate 0.5, val loss by rate (0.5: 1.25, 2.0: 1.5)'
    """
    parts = [f"{_plain(key)} {_inner(value)}" for key, value in setting.items()]
    return ", ".join(" ".join(part.split()) for part in parts)


def _inner(value: Any) -> str:
    return f"({', '.join(f'{key}: {of}' for key, of in value.items())})" if isinstance(value, Mapping) else str(value)


def _plain(name: str) -> str:
    return name.replace("_", " ")
