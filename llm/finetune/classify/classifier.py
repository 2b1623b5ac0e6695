"""A pretrained model and labeled texts → a classifier.

    a table of texts, labels, splits ──prepare_rows──► ids and labels as numbers ──train_classifier──► Classifier

One text or two make a row (`llm.tokens.templates`). A row has one label, learned by cross-entropy over all of them,
or any number, where every label is a yes or no of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm.core.device import Machine
from llm.core.errors import UserError
from llm.core.tables import SPLITS
from llm.finetune.classify.measures import Scored
from llm.finetune.data.batches import RowBatches, in_order, pad
from llm.finetune.data.labeled import Labeled
from llm.finetune.params import ClassifyTask, MethodParams, TrainingParams
from llm.finetune.shared.adapters import apply_method, count_trained, merge
from llm.finetune.shared.fit import fit
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.tokens.templates import classifier_ids, min_tokens
from llm.tokens.tokenizer import Tokenizer
from llm.train.curve import Curve


@dataclass(frozen=True)
class Rows:
    """One split: a row's token ids in their frame, its texts, its label as a number.

    Labels are (rows,), or where a row has any number of them (rows, labels) of 0 and 1.
    """

    ids: list[list[int]]
    texts: list[list[str]]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """The task's rows by split, the labels' names, and what was cut or left out."""

    rows: dict[str, Rows]
    labels: list[str]
    report: dict[str, Any]

    @property
    def is_multilabel(self) -> bool:
        """Whether a row has any number of labels."""
        return self.rows["train"].labels.ndim == 2


def prepare_rows(labeled: Labeled, task: ClassifyTask, tokenizer: Tokenizer, context_length: int) -> Prepared:
    """Tokenize the texts and number the labels, which are those of train in the order of the alphabet."""
    least = min_tokens(len(task.text_columns))
    if not least <= task.max_tokens <= context_length:
        raise UserError(f"max_tokens: wanted {least} to {context_length}, the base's context, given {task.max_tokens}")
    table = labeled.table
    labels = sorted({label for row in table.loc[table["split"] == "train", "labels"] for label in row})
    rows, n_cut = {}, 0
    for split in SPLITS:
        part = table[table["split"] == split]
        texts = part["texts"].tolist()
        encoded = encode_texts(texts, tokenizer)
        n_cut += sum(sum(map(len, row)) + len(row) > task.max_tokens for row in encoded)
        ids = [classifier_ids(row, tokenizer.special, task.max_tokens) for row in encoded]
        numbers = number_labels(part["labels"].tolist(), labels, any_number=task.label_separator is not None)
        rows[split] = Rows(ids, texts, numbers)
    report = {"rows": {split: len(part.ids) for split, part in rows.items()}, "rows_cut_to_max_tokens": n_cut}
    return Prepared(rows, labels, report | labeled.counts)


def encode_texts(texts: list[list[str]], tokenizer: Tokenizer) -> list[list[list[int]]]:
    """The ids of each text of each row, without the frame."""
    ids = iter(tokenizer.encode_batch([text for row in texts for text in row], n_threads=2))
    return [[next(ids).tolist() for _ in row] for row in texts]


def number_labels(rows: list[list[str]], labels: list[str], any_number: bool) -> NDArray[np.int64]:
    """The place of each row's label among `labels` (rows,), or with `any_number` ones at their places (rows, labels).

    >>> number_labels([["sun"], ["rain"]], ["rain", "sun"], any_number=False)
    array([1, 0])
    >>> number_labels([["sun", "rain"], []], ["rain", "sun"], any_number=True)
    array([[1, 1],
           [0, 0]])
    """
    place = {label: number for number, label in enumerate(labels)}
    if not any_number:
        return np.array([place[label] for (label,) in rows], dtype=np.int64)
    ones = np.zeros((len(rows), len(labels)), dtype=np.int64)
    for number, row in enumerate(rows):
        ones[number, [place[label] for label in row]] = 1
    return ones


def balanced_weights(labels: NDArray[np.int64], n_labels: int) -> Tensor:
    """What a row of each label weighs, so that all labels weigh alike: rows / (labels · rows of it), as scikit-learn.

    (labels,); where a row has any number of labels (2, labels), of a label's absence and of its presence.

    >>> balanced_weights(np.array([0, 0, 0, 1]), 2)
    tensor([0.6667, 2.0000])
    """
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=n_labels)
    else:
        counts = np.stack([(labels == 0).sum(axis=0), (labels == 1).sum(axis=0)])
    # What no row has weighs something, and is never asked for.
    return torch.from_numpy(len(labels) / (len(counts) * np.maximum(counts, 1))).float()


def label_loss(scores: Tensor, target: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """The mean loss in nats of scores (B, labels): cross-entropy of a target (B,), binary cross-entropy of (B, labels).

    `weights` are those of `balanced_weights`, and the mean is weighted by them. With `smoothing` that share of the
    target is spread over all labels evenly (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """
    if target.ndim == 1:
        return nn.functional.cross_entropy(scores, target, weights, label_smoothing=smoothing)
    smooth = target * (1 - smoothing) + smoothing / 2
    losses = nn.functional.binary_cross_entropy_with_logits(scores, smooth, reduction="none")
    if weights is None:
        return losses.mean()
    weight = torch.where(target == 1, weights[1], weights[0])
    return (losses * weight).sum() / weight.sum()


@dataclass(frozen=True)
class Trained:
    """A classifier whose trunk is a plain GPT again, its curve, the scores of val and test, and what it was made by."""

    model: Classifier
    curve: Curve
    val: Scored
    test: Scored
    rate: float
    setting: dict[str, Any]


def train_classifier(
    make_trunk: Callable[[], GPT],
    prepared: Prepared,
    task: ClassifyTask,
    method: MethodParams,
    training: TrainingParams,
    pad_id: int,
    seed: int,
    machine: Machine,
    scratch: Path,
    name: str,
) -> Trained:
    """Train a classifier on a trunk that `make_trunk` gives anew for each rate that is tried, then score val and test.

    The map to scores is trained by every `method`. `name` keeps the run's state apart from others in `scratch`.
    """
    train_rows, val = prepared.rows["train"], prepared.rows["val"]
    batches = RowBatches([len(ids) for ids in train_rows.ids], training.batch_size, seed)
    n_steps = max(1, round(training.epochs * batches.per_epoch))
    n_labels = len(prepared.labels)
    weights = balanced_weights(train_rows.labels, n_labels) if task.class_weights == "balanced" else None
    here = None if weights is None else weights.to(machine.device)

    def make() -> Classifier:
        trunk = make_trunk()
        apply_method(trunk, method, torch.Generator().manual_seed(seed))
        return Classifier(trunk, n_labels).to(machine.device)

    def step_loss(model: Classifier, step: int) -> Tensor:
        numbers = batches.at(step)
        rows = [train_rows.ids[number] for number in numbers]
        scores = _scores(model, rows, pad_id, machine, model.trunk.dropout_keys(seed, step))
        target = torch.from_numpy(train_rows.labels[numbers]).to(machine.device)
        return label_loss(scores, target, here, task.label_smoothing)

    def val_loss(model: Classifier) -> float:
        scores = predict(model, val.ids, pad_id, training.batch_size, machine)
        return float(label_loss(scores, torch.from_numpy(val.labels), weights))

    fitted = fit(make, step_loss, val_loss, n_steps, training, machine, scratch, name)
    model = fitted.model
    n_trained = count_trained(model)
    merge(model.trunk)
    scored = {
        split: Scored(part.labels, predict(model, part.ids, pad_id, training.batch_size, machine).numpy())
        for split, part in prepared.rows.items()
        if split != "train"
    }
    setting = {
        "method": method.kind,
        "trained_weights": n_trained,
        "weights": model.n_parameters(),
        "rate": fitted.rate,
        "steps": n_steps,
        "val_loss_by_rate": fitted.tried,
    }
    return Trained(model, fitted.curve, scored["val"], scored["test"], fitted.rate, setting)


@torch.no_grad()
def predict(model: Classifier, ids: list[list[int]], pad_id: int, batch_size: int, machine: Machine) -> Tensor:
    """Scores (rows, labels) on the CPU, in the order of `ids`."""
    scores = torch.empty(len(ids), model.score.weight.shape[0])
    for numbers in in_order([len(row) for row in ids], 4 * batch_size):
        scores[numbers] = _scores(model, [ids[number] for number in numbers], pad_id, machine).cpu()
    return scores


def _scores(
    model: Classifier, rows: list[list[int]], pad_id: int, machine: Machine, dropout_keys: Tensor | None = None
) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows], device=machine.device)
    with machine.autocast():
        return model(pad(rows, pad_id).to(machine.device), lengths, dropout_keys).float()
