"""What a classifier has to beat: rows in three splits → the scores of two baselines that know no language.

    majority    every row gets the labels' shares in train: the most frequent one, or those of more than half of it
    tfidf       weighted counts of words and of pairs of them, and logistic regression

Two texts of a row are read as one, with a space between them.
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
from llm.finetune.classify.measures import Rival, Scored, log_loss

# The strengths of regularisation that logistic regression is tuned over, on val; a larger C is a weaker one.
TFIDF_CS = (1.0, 10.0, 100.0)
WORDS = r"\w+|[^\w\s]"


def score_baselines(prepared: Prepared, seed: int) -> dict[str, Rival]:
    """The rows `majority` and `tfidf`. Nothing is learnt or chosen from test."""
    # Short products of vectors: two threads that wait for a busy core took 25 times as long as one.
    with threadpool_limits(1):
        return {"majority": _majority(prepared), "tfidf": _tfidf(prepared, seed)}


def _majority(prepared: Prepared) -> Rival:
    """Where rows have one label the scores are log-probabilities, else logits: both give the shares in train again."""
    train, val, test = (prepared.rows[split] for split in SPLITS)
    if train.labels.ndim == 1:
        scores = np.log(np.bincount(train.labels, minlength=len(prepared.labels)) / len(train.labels))
        given = [prepared.labels[scores.argmax()]]
    else:
        # One row more of either kind, so that a label of all rows has a logit too.
        scores = logit((train.labels.sum(axis=0) + 1) / (len(train.labels) + 2))
        given = [label for label, score in zip(prepared.labels, scores, strict=True) if score > 0]

    def score(rows: Rows) -> Scored:
        return Scored(rows.labels, np.tile(scores, (len(rows.labels), 1)).astype(np.float32))

    return Rival(score(val), score(test), {"label": ", ".join(given)})


def _tfidf(prepared: Prepared, seed: int) -> Rival:
    """The C with the lowest log loss on val."""
    train, val, test = (prepared.rows[split] for split in SPLITS)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    counted = words.fit_transform(_joined(train))
    val_counted, test_counted = words.transform(_joined(val)), words.transform(_joined(test))
    fitted, tried = {}, {}
    for strength in TFIDF_CS:
        fitted[strength] = _fit(LogisticRegression(C=strength, max_iter=500, random_state=seed), counted, train.labels)
        tried[strength] = round(log_loss(Scored(val.labels, _scores(fitted[strength], val_counted))), 5)
    best = min(tried, key=lambda strength: tried[strength])
    setting = {"C": best, "val_loss_by_C": {str(strength): loss for strength, loss in tried.items()}}
    return Rival(
        Scored(val.labels, _scores(fitted[best], val_counted)),
        Scored(test.labels, _scores(fitted[best], test_counted)),
        setting,
    )


def _joined(rows: Rows) -> list[str]:
    return [" ".join(texts) for texts in rows.texts]


def _fit(model: LogisticRegression, counted: Any, labels: NDArray[np.int64]) -> Any:
    """A softmax over the labels (N,), or a regression for each of them (N, L)."""
    if labels.ndim == 1:
        return model.fit(counted, labels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        return OneVsRestClassifier(model).fit(counted, labels)


def _scores(model: Any, counted: Any) -> NDArray[np.float32]:
    """(N, L): log-probabilities of one label a row, logits of any number of them."""
    logits = model.decision_function(counted)
    if isinstance(model, OneVsRestClassifier):
        return logits.reshape(counted.shape[0], -1).astype(np.float32)
    if logits.ndim == 1:  # of two labels: that of the second over the first
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    return log_softmax(logits, axis=1).astype(np.float32)
