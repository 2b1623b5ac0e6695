"""Baselines of a classifier without language: the majority, and TF-IDF with logistic regression.

Two texts of a row are joined by a space.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from llm.core.tables import SPLITS
from llm.finetune.classify.classifier import Prepared, Rows
from llm.finetune.classify.measures import Scored, SystemPredictions, log_loss

TFIDF_CS = (1.0, 10.0, 100.0)  # inverse strengths of regularization, searched on val
WORDS = r"\w+|[^\w\s]"


def score_baselines(prepared: Prepared, seed: int) -> dict[str, SystemPredictions]:
    """Return the systems `majority` and `tfidf`; nothing is fitted to test."""
    # Short vector products: two threads that wait for a busy core took 25 times as long as one.
    with threadpool_limits(1):
        return {"majority": _majority(prepared), "tfidf": _tfidf(prepared, seed)}


def _majority(prepared: Prepared) -> SystemPredictions:
    train, val, test = (prepared.rows[split] for split in SPLITS)
    if train.labels.ndim == 1:
        scores = np.log(np.bincount(train.labels, minlength=len(prepared.labels)) / len(train.labels))
        predicted = [prepared.labels[scores.argmax()]]
    else:
        # One row more with and without each label, so that a label of all rows has a finite logit.
        scores = logit((train.labels.sum(axis=0) + 1) / (len(train.labels) + 2))
        predicted = [label for label, score in zip(prepared.labels, scores, strict=True) if score > 0]

    def score(rows: Rows) -> Scored:
        return Scored(rows.labels, np.tile(scores, (len(rows.labels), 1)).astype(np.float32))

    return SystemPredictions(score(val), score(test), {"label": ", ".join(predicted)})


def _tfidf(prepared: Prepared, seed: int) -> SystemPredictions:
    """Fit logistic regression to words and pairs of words; C has the lowest log loss on val."""
    train, val, test = (prepared.rows[split] for split in SPLITS)
    joined = {split: [" ".join(texts) for texts in rows.texts] for split, rows in prepared.rows.items()}
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    features = words.fit_transform(joined["train"])
    val_features, test_features = words.transform(joined["val"]), words.transform(joined["test"])
    fitted, found, losses = {}, {}, {}
    for c in TFIDF_CS:
        fitted[c] = _fit(LogisticRegression(C=c, max_iter=500, random_state=seed), features, train.labels)
        found[c] = Scored(val.labels, _scores(fitted[c], val_features))
        losses[c] = round(log_loss(found[c]), 5)
    best = min(losses, key=lambda c: losses[c])
    setting = {"C": best, "val_loss_by_C": {str(c): loss for c, loss in losses.items()}}
    return SystemPredictions(found[best], Scored(test.labels, _scores(fitted[best], test_features)), setting)


def _fit(model: LogisticRegression, features: Any, labels: NDArray[np.int64]) -> Any:
    if labels.ndim == 1:
        return model.fit(features, labels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        return OneVsRestClassifier(model).fit(features, labels)


def _scores(model: Any, features: Any) -> NDArray[np.float32]:
    """Return log-probabilities of one label, or logits of any number; (N, L)."""
    logits = model.decision_function(features)
    if isinstance(model, OneVsRestClassifier):
        return logits.reshape(features.shape[0], -1).astype(np.float32)
    if logits.ndim == 1:  # binary: the logit of the second label against the first
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    return log_softmax(logits, axis=1).astype(np.float32)
