"""Figures of class scores on test, with bootstrap intervals, and the temperature that calibrates them on val.

    val: actual, scores ──fit_temperature──► T ─┐
    test: actual, scores ───────────────────────┴─ scores / T ─► probabilities ─► measure, by_label, curves

With one label per row `actual` (N,) holds its number, and a softmax over the scores (N, L) gives probabilities. With
any number of labels `actual` (N, L) holds 0 and 1, and each label has a sigmoid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn import metrics

from llm.evaluate.bootstrap import LEVEL, MAX_DRAWS, N_RESAMPLES, calibration, ratio_with_interval

N_BINS = 15
MAX_TEMPERATURE = 100.0  # the minimum is 1 / 100
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """The labels of a split's rows, (N,) or (N, L) of 0 and 1, and their logits (N, L)."""

    actual: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def is_multilabel(self) -> bool:
        """Whether a row has any number of labels."""
        return self.actual.ndim == 2

    @property
    def is_binary(self) -> bool:
        """Whether a row has one of two labels, and both occur."""
        return not self.is_multilabel and self.scores.shape[1] == 2 and len(np.unique(self.actual)) == 2

    def predict(self) -> NDArray[np.int64]:
        """Return the most probable label of each row (N,), or 1 for every label above a probability of 0.5 (N, L)."""
        return (self.scores > 0).astype(np.int64) if self.is_multilabel else self.scores.argmax(axis=1)

    def probabilities(self, temperature: float = 1.0) -> Floats:
        """Return the probability of each label; (N, L)."""
        scaled = self.scores.astype(np.float64) / temperature
        return expit(scaled) if self.is_multilabel else softmax(scaled, axis=1)

    def is_right(self) -> NDArray[np.int64]:
        """Return 1 for a row whose predicted labels are exactly its own; (N,)."""
        same = self.predict() == self.actual
        return (same.all(axis=1) if self.is_multilabel else same).astype(np.int64)


@dataclass(frozen=True)
class SystemPredictions:
    """Scores of a system on val and test, and its setting."""

    val: Scored
    test: Scored
    setting: dict[str, Any]


def log_loss(scored: Scored, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood in nats of a row's label, or of each label of each row.

    >>> round(log_loss(Scored(np.array([1]), np.log([[0.2, 0.8]]))), 4)  # -log 0.8
    0.2231
    """
    scaled = scored.scores.astype(np.float64) / temperature
    if scored.is_multilabel:
        return float(-log_expit(np.where(scored.actual == 1, scaled, -scaled)).mean())
    return float(-np.take_along_axis(log_softmax(scaled, axis=1), scored.actual[:, None], axis=1).mean())


def fit_temperature(val: Scored) -> float:
    """Return the temperature with the lowest log loss on val (Guo et al. 2017), 1 where all of val is right."""
    if val.is_right().all():
        return 1.0
    bound = float(np.log(MAX_TEMPERATURE))
    found = minimize_scalar(lambda log: log_loss(val, np.exp(log)), bounds=(-bound, bound), method="bounded")
    return round(float(np.exp(found.x)), 5) if found.fun < log_loss(val) else 1.0


def reliability(scored: Scored, temperature: float = 1.0) -> tuple[list[dict[str, Any]], float]:
    """Return calibration by bin, and the expected calibration error, of the top label or of each label of each row."""
    probability = scored.probabilities(temperature)
    if scored.is_multilabel:
        return calibration(probability.ravel(), scored.actual.ravel(), N_BINS)
    return calibration(probability.max(axis=1), scored.is_right(), N_BINS)


def measure(test: Scored, temperature: float, seed: int) -> dict[str, Any]:
    """Return figures of test: fractions rounded to 4 places, nats to 5; `_low` and `_high` bound a 95% interval.

    With any number of labels, accuracy is that of whole rows, and micro-F1 replaces balanced accuracy.
    """
    rng = np.random.default_rng(seed)
    right, predicted = test.is_right(), test.predict()
    found: dict[str, Any] = ratio_with_interval("accuracy", right, np.ones_like(right), rng, digits=4)
    found |= _macro_f1_with_interval(test, rng)
    if test.is_multilabel:
        found["micro_f1"] = _round(metrics.f1_score(test.actual, predicted, average="micro", zero_division=0))
    else:
        recall = metrics.recall_score(test.actual, predicted, labels=np.unique(test.actual), average="macro")
        found["balanced_accuracy"] = _round(recall)
    if test.is_binary:
        score = test.probabilities()[:, 1]
        found["roc_auc"] = _round(metrics.roc_auc_score(test.actual, score))
        found["average_precision"] = _round(metrics.average_precision_score(test.actual, score))
    for name, value in (("", 1.0), ("_at_temperature", temperature)):
        found[f"log_loss{name}"] = round(log_loss(test, value), 5)
        found[f"calibration_error{name}"] = reliability(test, value)[1]
    return found | {"temperature": temperature}


def difference(a: Scored, b: Scored, seed: int) -> dict[str, float]:
    """Return `accuracy_difference`, a less b on the same rows, with the 95% interval of paired resamples."""
    apart = a.is_right() - b.is_right()
    rng = np.random.default_rng(seed)
    return ratio_with_interval("accuracy_difference", apart, np.ones_like(apart), rng, digits=4)


def by_label(test: Scored, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and the number of `rows` of each label."""
    numbers = np.arange(len(labels))
    columns = metrics.precision_recall_fscore_support(test.actual, test.predict(), labels=numbers, zero_division=0)
    return [
        {"label": label, "precision": _round(precision), "recall": _round(recall), "f1": _round(f1), "rows": int(rows)}
        for label, precision, recall, f1, rows in zip(labels, *columns, strict=True)
    ]


def curves(test: Scored, temperature: float, labels: Sequence[str]) -> dict[str, Any]:
    """Return what the pictures of a classifier show: calibration, confusion matrix, ROC and precision-recall curves."""
    calibrated = f"temperature {temperature:.2f}", reliability(test, temperature)[0]
    found: dict[str, Any] = {"calibration": dict([("uncalibrated", reliability(test)[0]), calibrated])}
    if not test.is_multilabel:
        matrix = metrics.confusion_matrix(test.actual, test.predict(), labels=np.arange(len(labels)))
        found["confusion"] = matrix.tolist()
    if test.is_binary:
        score = test.probabilities()[:, 1]
        precision, recall, _ = metrics.precision_recall_curve(test.actual, score)
        found["roc"] = np.stack(metrics.roc_curve(test.actual, score)[:2], axis=1).tolist()
        found["precision_recall"] = np.stack([recall, precision], axis=1).tolist()
        found["positive_fraction"] = float(test.actual.mean())
    return found


def _round(value: Any) -> float:
    return round(float(value), 4)


def _macro_f1_with_interval(test: Scored, rng: np.random.Generator) -> dict[str, float]:
    """Return the mean F1 over labels that occur or are predicted, with its bootstrap interval over rows."""
    n, n_labels = test.scores.shape
    # Equal rows are drawn together: with one label per row there are at most L² kinds.
    pairs = np.column_stack([test.actual, test.predict()])
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    actual, given = np.hsplit(kinds, 2)
    if not test.is_multilabel:
        actual, given = (np.eye(n_labels)[of[:, 0]] for of in (actual, given))
    hits, claims = (actual * given).astype(np.float64), (actual + given).astype(np.float64)  # (K, L)
    found = {"macro_f1": _round(_macro_f1(counts[None], hits, claims)[0])}
    if n < 2:
        return found
    batch = max(MAX_DRAWS // max(len(counts), n_labels), 1)
    sizes = [min(batch, N_RESAMPLES - at) for at in range(0, N_RESAMPLES, batch)]
    drawn = [_macro_f1(rng.multinomial(n, counts / n, size=size), hits, claims) for size in sizes]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return found | {"macro_f1_low": _round(low), "macro_f1_high": _round(high)}


def _macro_f1(counts: NDArray[np.int64], hits: Floats, claims: Floats) -> Floats:
    """Return macro-F1 (R,) of R resamples with `counts` (R, K) rows of each kind (`hits`, `claims`: (K, L))."""
    right, either = counts @ hits, counts @ claims  # (R, L)
    f1 = 2 * right / np.maximum(either, 1)
    return f1.sum(axis=1) / np.maximum((either > 0).sum(axis=1), 1)
