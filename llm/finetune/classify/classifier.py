"""Labeled texts as rows of ids, and the loss of a classifier on them.

    table of texts, labels, splits ──prepare_rows──► ids, labels as numbers ──make_objective──► losses of a Classifier

A row is one text or two. It has one label, with cross-entropy over all labels, or any number, with binary cross-entropy
for each label.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.finetune.classify.measures import Scored
from llm.finetune.data.batches import RowBatches, by_length, pad
from llm.finetune.data.labeled import Labeled
from llm.finetune.params import ClassifyTask
from llm.finetune.shared.job import Objective, Run
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.tokens.templates import classifier_ids, min_tokens
from llm.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rows:
    """One split: framed token ids, texts, and label numbers (rows,), or (rows, labels) of 0 and 1."""

    ids: list[list[int]]
    texts: list[list[str]]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """A task's rows by split, the names of labels, counts of rows, and the most tokens that a row may have."""

    rows: dict[str, Rows]
    labels: list[str]
    counts: dict[str, Any]
    max_tokens: int


def prepare_rows(labeled: Labeled, task: ClassifyTask, tokenizer: Tokenizer, context_length: int) -> Prepared:
    """Tokenize the texts and number the labels of train in sorted order."""
    parts = {split: labeled.table[labeled.table["split"] == split] for split in SPLITS}
    encoded = {split: encode_texts(part["texts"].tolist(), tokenizer) for split, part in parts.items()}
    lengths = {split: framed_lengths(of) for split, of in encoded.items()}
    max_tokens = _max_tokens(task, lengths["train"], context_length)
    labels = sorted({label for row in parts["train"]["labels"] for label in row})
    rows = {}
    for split, part in parts.items():
        ids = [classifier_ids(row, tokenizer.special, max_tokens) for row in encoded[split]]
        numbers = number_labels(part["labels"].tolist(), labels, multilabel=task.label_separator is not None)
        rows[split] = Rows(ids, part["texts"].tolist(), numbers)
    n_truncated = sum(length > max_tokens for length in chain(*lengths.values()))
    counts = {"rows": {split: len(part.ids) for split, part in rows.items()}, "truncated": n_truncated}
    return Prepared(rows, labels, counts | labeled.counts, max_tokens)


def _max_tokens(task: ClassifyTask, train_lengths: list[int], context_length: int) -> int:
    found, least = task.max_tokens_of(train_lengths, context_length), min_tokens(len(task.text_columns))
    if found < least:
        raise UserError(f"max_tokens: expected at least {least}, got {found}")
    return found


def encode_texts(texts: list[list[str]], tokenizer: Tokenizer) -> list[list[list[int]]]:
    """Return the ids of each text of each row, without the frame."""
    ids = iter(tokenizer.encode_batch([text for row in texts for text in row], n_threads=2))
    return [[next(ids).tolist() for _ in row] for row in texts]


def framed_lengths(rows: list[list[list[int]]]) -> list[int]:
    """Return the tokens of each row with its frame: one beside each text."""
    return [sum(map(len, texts)) + len(texts) for texts in rows]


def number_labels(rows: list[list[str]], labels: list[str], multilabel: bool) -> NDArray[np.int64]:
    """Return the index of each row's label (rows,), or with `multilabel` 1 at the indices of its labels (rows, labels).

    >>> number_labels([["sun"], ["rain"]], ["rain", "sun"], multilabel=False)
    array([1, 0])
    >>> number_labels([["sun", "rain"], []], ["rain", "sun"], multilabel=True)
    array([[1, 1],
           [0, 0]])
    """
    index = {label: number for number, label in enumerate(labels)}
    if not multilabel:
        return np.array([index[label] for (label,) in rows], dtype=np.int64)
    ones = np.zeros((len(rows), len(labels)), dtype=np.int64)
    for number, row in enumerate(rows):
        ones[number, [index[label] for label in row]] = 1
    return ones


def balanced_weights(labels: NDArray[np.int64], n_labels: int) -> Tensor:
    """Return weights with which all labels weigh the same, as in scikit-learn: rows / (labels · rows with it).

    (labels,); with any number of labels (2, labels), of the absence and the presence of each.

    >>> balanced_weights(np.array([0, 0, 0, 1]), 2)
    tensor([0.6667, 2.0000])
    """
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=n_labels)
    else:
        counts = np.stack([(labels == 0).sum(axis=0), (labels == 1).sum(axis=0)])
    # A finite weight for what no row has; it is never used.
    return torch.from_numpy(len(labels) / (len(counts) * np.maximum(counts, 1))).float()


def label_loss(scores: Tensor, target: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Return the mean loss in nats of scores (B, labels): cross-entropy of a target (B,), else binary (B, labels).

    `weights` are those of `balanced_weights`; `smoothing` is spread evenly over labels (Szegedy et al. 2016).
    """
    if target.ndim == 1:
        return nn.functional.cross_entropy(scores, target, weights, label_smoothing=smoothing)
    smooth = target * (1 - smoothing) + smoothing / 2
    losses = nn.functional.binary_cross_entropy_with_logits(scores, smooth, reduction="none")
    if weights is None:
        return losses.mean()
    weight = torch.where(target == 1, weights[1], weights[0])
    return (losses * weight).sum() / weight.sum()


def make_objective(
    load_base: Callable[[], GPT], prepared: Prepared, task: ClassifyTask, pad_id: int, run: Run
) -> Objective[Classifier]:
    """Return the losses of a classifier on a base; its linear map to scores is trained by every method."""
    train, val, n_labels = prepared.rows["train"], prepared.rows["val"], len(prepared.labels)
    batches = RowBatches([len(ids) for ids in train.ids], task.training.batch_size, run.seed)
    weights = balanced_weights(train.labels, n_labels) if task.class_weights == "balanced" else None
    on_device = None if weights is None else weights.to(run.machine.device)

    def step_loss(model: Classifier, step: int) -> Tensor:
        numbers = batches.at(step)
        rows, keys = [train.ids[number] for number in numbers], model.trunk.dropout_keys(run.seed, step)
        scores = _scores(model, rows, pad_id, run.machine, keys)
        target = torch.from_numpy(train.labels[numbers]).to(scores.device)
        return label_loss(scores, target, on_device, task.label_smoothing)

    def val_loss(model: Classifier) -> float:
        scores = predict(model, val.ids, pad_id, task.training.batch_size, run.machine)
        return float(label_loss(scores, torch.from_numpy(val.labels), weights))

    return Objective(load_base, step_loss, val_loss, batches.per_epoch, lambda trunk: Classifier(trunk, n_labels))


@torch.no_grad()
def predict(model: Classifier, ids: list[list[int]], pad_id: int, batch_size: int, machine: Machine) -> Tensor:
    """Return scores (rows, labels) on the CPU, in the order of `ids`."""
    scores = torch.empty(len(ids), model.score.weight.shape[0])
    for numbers in by_length([len(row) for row in ids], 4 * batch_size):
        scores[numbers] = _scores(model, [ids[number] for number in numbers], pad_id, machine).cpu()
    return scores


def score_split(model: Classifier, rows: Rows, pad_id: int, batch_size: int, machine: Machine) -> Scored:
    """Return the scores of a split beside its labels."""
    return Scored(rows.labels, predict(model, rows.ids, pad_id, batch_size, machine).numpy())


def _scores(
    model: Classifier, rows: list[list[int]], pad_id: int, machine: Machine, dropout_keys: Tensor | None = None
) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows], device=machine.device)
    with machine.autocast():
        return model(pad(rows, pad_id).to(machine.device), lengths, dropout_keys).float()
