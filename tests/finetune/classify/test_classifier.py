"""Labeled texts become rows of ids and numbers, from which a classifier learns what its task asks for."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from llm.finetune.classify.classifier import (
    balanced_weights,
    label_loss,
    make_objective,
    prepare_rows,
    score_split,
)
from llm.finetune.data.labeled import Labeled
from llm.finetune.shared.job import Run, fit
from llm.tokens.templates import classifier_ids

EPOCHS = {"training.epochs": 4.0, "training.n_evals": 3, "max_tokens": 32}
SPLITS = ["train", "train", "train", "val", "test"]


def labeled(rows: list[tuple[list[str], list[str], str]]) -> Labeled:
    table = pd.DataFrame(rows, columns=["texts", "labels", "split"])
    return Labeled(table.assign(row=range(1, len(table) + 1)), {"dropped": {"empty_text": 3}})


def rain_and_river(n: int = 20, before: tuple[str, ...] = ()) -> Labeled:
    """Twice as many rivers as rains, told apart by a word of the last text."""
    rows = [([*before, f"the rain falls {number}"], ["rain"], SPLITS[number % 5]) for number in range(n)]
    return labeled(rows + [([*before, f"a river runs {n}"], ["river"], SPLITS[n % 5]) for n in range(2 * n)])


def weather(n: int = 60) -> Labeled:
    """Any of three words in a text, which are its labels."""
    words = ["rain", "river", "sun"]
    chosen = [[word for place, word in enumerate(words) if number >> place & 1] for number in range(n)]
    return labeled([(["it: " + " ".join(of)], of, SPLITS[n // 8 % 5]) for n, of in enumerate(chosen)])


@pytest.fixture
def train(tmp_path, tokenizer, make_task, draw_gpt, plain_cpu):
    """Train a classifier on a drawn trunk; the model with its scores of val and test."""

    def run(rows: Labeled, changes: dict | None = None, name: str = "out", seed: int = 1, **shape: object):
        task = make_task("classify", EPOCHS | (changes or {}))
        prepared = prepare_rows(rows, task, tokenizer, 48)
        where = Run("row", seed, plain_cpu, tmp_path / name)
        objective = make_objective(lambda: draw_gpt(**shape), prepared, task, tokenizer.pad, where)
        fitted = fit(objective, task.method, task.training, where)
        val, test = (
            score_split(fitted.model, prepared.rows[of], tokenizer.pad, 8, plain_cpu) for of in ("val", "test")
        )
        return fitted, val, test

    return run


def test_every_row_keeps_its_texts_and_its_label(tokenizer, make_task):
    rows = rain_and_river()
    prepared = prepare_rows(rows, make_task("classify", EPOCHS), tokenizer, context_length=48)
    for split, found in prepared.rows.items():
        given = rows.table[rows.table["split"] == split]
        assert found.texts == given["texts"].tolist()
        assert [[prepared.labels[number]] for number in found.labels] == given["labels"].tolist()
    counts = {"rows": {"train": 36, "val": 12, "test": 12}, "truncated": 0, "dropped": {"empty_text": 3}}
    assert prepared.counts == counts
    ones = prepare_rows(weather(), make_task("classify", EPOCHS | {"label_separator": "|"}), tokenizer, 48)
    for (text,), found in zip(ones.rows["train"].texts, ones.rows["train"].labels, strict=True):
        assert [int(label in text) for label in ones.labels] == found.tolist()


@pytest.mark.parametrize("n_texts", [1, 2])
def test_rows_are_truncated_and_counted(tokenizer, make_task, n_texts):
    task = make_task("classify", EPOCHS | {"text_columns": ["text", "other"][:n_texts]})
    texts = {"train": "rain " * 40, "val": "x" * (32 - n_texts), "test": "x" * (33 - n_texts)}
    rows = [([text, *[""] * (n_texts - 1)], [label], split) for split, text in texts.items() for label in "ab"]
    prepared = prepare_rows(labeled(rows), task, tokenizer, context_length=48)
    assert {split: len(part.ids[0]) for split, part in prepared.rows.items()} == {"train": 32, "val": 32, "test": 32}
    assert prepared.counts["truncated"] == 4
    encoded = [tokenizer.encode(text) for text in prepared.rows["train"].texts[0]]
    assert prepared.rows["train"].ids[0] == classifier_ids(encoded, tokenizer.special, 32)


def test_balanced_weights_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    labels = rng.choice(4, 50, p=[0.6, 0.2, 0.1, 0.1])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 4), expected, rtol=1e-6)
    ones = (rng.random((50, 3)) < [0.1, 0.5, 0.9]).astype(np.int64)
    each = [compute_class_weight("balanced", classes=np.arange(2), y=column) for column in ones.T]
    np.testing.assert_allclose(balanced_weights(ones, 3), np.stack(each, axis=1), rtol=1e-6)
    assert balanced_weights(np.array([[1, 0], [1, 1]]), 2).isfinite().all()


def test_smoothing_spreads_the_target_over_labels():
    scores = torch.tensor([[2.0, -1.0, 0.5]])
    logs = scores.log_softmax(dim=-1)[0]
    expected = -(0.7 * logs[1] + 0.1 * logs.sum())
    assert float(label_loss(scores, torch.tensor([1]), smoothing=0.3)) == pytest.approx(float(expected))
    for one, target in ((1, 0.85), (0, 0.15)):
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.full((1, 3), target))
        found = label_loss(scores, torch.full((1, 3), one), smoothing=0.3)
        assert float(found) == pytest.approx(float(expected))


def test_words_of_either_text_and_any_number_of_labels_are_learned(train):
    fitted, val, test = train(rain_and_river())
    assert test.is_right().tolist() == [1] * 12
    assert val.scores.shape == (12, 2)
    assert fitted.setting["trained_weights"] == fitted.setting["weights"] == fitted.model.n_parameters()
    pair = {"text_columns": ["first", "second"], "training.epochs": 8.0}
    assert train(rain_and_river(before=("say",)), pair, "pair")[2].is_right().all()
    many = train(weather(), {"label_separator": "|", "training.epochs": 12.0}, "many")[2]
    assert many.is_right().mean() > 0.9


@pytest.mark.parametrize(("key", "value"), [("class_weights", "balanced"), ("label_smoothing", 0.3)])
def test_weights_and_smoothing_change_the_training(train, key, value):
    plain, (fitted, val, test) = train(rain_and_river(), name="plain"), train(rain_and_river(), {key: value}, "other")
    assert not np.array_equal(plain[2].scores, test.scores)
    # The loss on val is weighted as that of training, and never smoothed.
    weights = balanced_weights(np.array([0] * 12 + [1] * 24), 2) if key == "class_weights" else None
    loss = label_loss(torch.from_numpy(val.scores), torch.from_numpy(val.actual), weights)
    assert float(loss) == pytest.approx(fitted.curve.best()["val_loss"], abs=1e-5)


def test_dropout_and_the_order_of_rows_depend_on_the_seed(train):
    settings = [(0.2, 1), (0.2, 1), (0.0, 1), (0.0, 2)]
    curves = [train(rain_and_river(), name=f"{n}", dropout=p, seed=s)[0].curve for n, (p, s) in enumerate(settings)]
    assert curves[0] == curves[1] != curves[2] != curves[3]
