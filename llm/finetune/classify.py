"""A pretrained model and labeled texts → a classifier, beside the rows that keep it honest.

The classifier is the pretrained blocks and one linear map from the hidden state of a text's last token to a score
for each label: the only position that has seen all of the text. It is trained as a whole.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor, nn

from llm.errors import UserError
from llm.finetune.batches import RowBatches, in_order, pad
from llm.finetune.fit import fit
from llm.finetune.params import ClassifyTask
from llm.model.gpt import GPT
from llm.model.layers import Linear
from llm.plots import draw_confusion, draw_curve
from llm.runtime import Machine
from llm.text.tables import SPLITS
from llm.text.tokenizer import Tokenizer
from llm.train.loop import Curve

# The strengths of regularisation that logistic regression is tuned over, on val.
TFIDF_CS = (1.0, 10.0, 100.0)
WORDS = r"\w+|[^\w\s]"


class Classifier(nn.Module):
    """A GPT's blocks, and a score for each label from the last token's hidden state."""

    def __init__(self, trunk: GPT, n_labels: int):
        super().__init__()
        self.trunk = trunk
        self.trunk.head.requires_grad_(False)  # scores no tokens here; tied, it would keep the embedding fixed
        self.trunk.embedding.requires_grad_(True)
        self.score = Linear(trunk.config.d_model, n_labels)
        nn.init.zeros_(self.score.weight)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, labels) of texts padded on the right: ids (B, T), lengths (B,)."""
        hidden, _ = self.trunk.run_blocks(self.trunk.embedding(ids))
        last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
        return self.score(last)


@dataclass(frozen=True)
class Rows:
    """One split: token ids cut to the length that the model reads, texts, and labels as numbers."""

    ids: list[list[int]]
    texts: list[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """The task's rows by split, the labels' names, and what was cut or dropped."""

    rows: dict[str, Rows]
    labels: list[str]
    report: dict[str, Any]


def prepare_rows(table: pd.DataFrame, task: ClassifyTask, tokenizer: Tokenizer, context_length: int) -> Prepared:
    """Tokenize the texts and number the labels; rows whose label train never saw are dropped and counted."""
    if task.max_tokens > context_length:
        raise UserError(f"max_tokens: wanted at most the base's context of {context_length}, given {task.max_tokens}")
    labels = sorted(set(table.loc[table["split"] == "train", task.label_column]))
    if len(labels) < 2:
        raise UserError(f"{task.data}: {task.label_column}: wanted two labels or more in train, given only {labels[0]}")
    known = table[table[task.label_column].isin(labels)]
    rows, cut = {}, 0
    for split in SPLITS:
        part = known[known["split"] == split]
        texts = part[task.text_columns[0]].tolist()
        whole = [ids.tolist() for ids in tokenizer.encode_batch(texts, n_threads=2)]
        cut += sum(len(ids) > task.max_tokens for ids in whole)
        numbers = np.array([labels.index(label) for label in part[task.label_column]], dtype=np.int64)
        rows[split] = Rows([ids[: task.max_tokens] for ids in whole], texts, numbers)
        if not texts:
            raise UserError(f"{task.data}: wanted rows in {split} whose label is in train, given none")
    report = {
        "rows": {split: len(part.ids) for split, part in rows.items()},
        "rows_cut_to_max_tokens": cut,
        "dropped_label_not_in_train": len(table) - len(known),
    }
    return Prepared(rows, labels, report)


@dataclass(frozen=True)
class Trained:
    """A classifier, its curve, what it predicted for test (scored once), the figures and the setting behind them."""

    model: Classifier
    curve: Curve
    predicted: NDArray[np.int64]
    figures: dict[str, Any]


def train_classifier(
    make_trunk: Callable[[], GPT],
    prepared: Prepared,
    task: ClassifyTask,
    pad_id: int,
    seed: int,
    machine: Machine,
    scratch: Path,
    label: str,
) -> Trained:
    """Train a classifier on a trunk that `make_trunk` gives anew for each rate that is tried, then score test."""
    training, train_rows, val, test = task.training, *(prepared.rows[split] for split in SPLITS)
    batches = RowBatches([len(ids) for ids in train_rows.ids], training.batch_size, seed)
    n_steps = max(1, round(training.epochs * batches.per_epoch))

    def make() -> Classifier:
        return Classifier(make_trunk(), len(prepared.labels)).to(machine.device)

    def step_loss(model: Classifier, step: int) -> Tensor:
        numbers = batches.at(step)
        scores = _scores(model, [train_rows.ids[number] for number in numbers], pad_id, machine)
        target = torch.from_numpy(train_rows.labels[numbers]).to(machine.device)
        return nn.functional.cross_entropy(scores, target)

    def val_loss(model: Classifier) -> float:
        scores = predict(model, val.ids, pad_id, training.batch_size, machine)
        return float(nn.functional.cross_entropy(scores, torch.from_numpy(val.labels)))

    fitted = fit(make, step_loss, val_loss, n_steps, training, machine, scratch, label)
    predicted = predict(fitted.model, test.ids, pad_id, training.batch_size, machine).argmax(dim=-1).numpy()
    setting = {"rate": fitted.rate, "steps": n_steps, "val_loss_by_rate": fitted.tried}
    figures = _figures(test.labels, predicted) | {"setting": setting}
    return Trained(fitted.model, fitted.curve, predicted, figures)


def score_baselines(prepared: Prepared, seed: int) -> dict[str, dict[str, Any]]:
    """The majority class, and TF-IDF of words and pairs with logistic regression, C tuned on val; test once each."""
    train, val, test = (prepared.rows[split] for split in SPLITS)
    majority = DummyClassifier(strategy="most_frequent").fit(train.texts, train.labels)
    figures = {
        "majority": _figures(test.labels, majority.predict(test.texts))
        | {"setting": {"label": prepared.labels[int(majority.predict(test.texts[:1])[0])]}}
    }

    def linear(strength: float) -> Pipeline:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
        return make_pipeline(words, LogisticRegression(C=strength, max_iter=500, random_state=seed))

    every = np.arange(len(prepared.labels))
    fitted = {strength: linear(strength).fit(train.texts, train.labels) for strength in TFIDF_CS}
    tried = {
        strength: round(float(log_loss(val.labels, model.predict_proba(val.texts), labels=every)), 5)
        for strength, model in fitted.items()
    }
    best = min(tried, key=lambda strength: tried[strength])
    setting = {"C": best, "val_loss_by_C": {str(strength): loss for strength, loss in tried.items()}}
    figures["tfidf"] = _figures(test.labels, fitted[best].predict(test.texts)) | {"setting": setting}
    return figures


@torch.no_grad()
def predict(model: Classifier, ids: list[list[int]], pad_id: int, batch_size: int, machine: Machine) -> Tensor:
    """Scores (rows, labels) on the CPU, in the order of `ids`."""
    scores = torch.empty(len(ids), model.score.weight.shape[0])
    for numbers in in_order([len(row) for row in ids], 4 * batch_size):
        scores[numbers] = _scores(model, [ids[number] for number in numbers], pad_id, machine).float().cpu()
    return scores


def _scores(model: Classifier, rows: list[list[int]], pad_id: int, machine: Machine) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows], device=machine.device)
    with machine.autocast():
        return model(pad(rows, pad_id).to(machine.device), lengths).float()


def _figures(actual: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "accuracy": round(float(accuracy_score(actual, predicted)), 4),
        "macro_f1": round(float(f1_score(actual, predicted, average="macro", zero_division=0)), 4),
    }


def draw_plots(
    folder: Path,
    labels: list[str],
    actual: NDArray[np.int64],
    predicted: NDArray[np.int64],
    curve: list[dict[str, float]],
) -> None:
    """The confusion matrix as DVC's plots take it (a row a prediction) and as a picture, and the learning curve."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        writer.writerows([labels[a], labels[p]] for a, p in zip(actual, predicted, strict=True))
    counts = confusion_matrix(actual, predicted, labels=np.arange(len(labels)))
    draw_confusion(counts.tolist(), labels, "test rows", folder / "confusion.svg")
    draw_curve(curve, "finetuning", folder / "curve.svg")
