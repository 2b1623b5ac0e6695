"""A classifier scores a text for itself, learns, and is measured beside rows that keep it honest."""

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from llm.errors import UserError
from llm.finetune.classify import (
    Classifier,
    draw_plots,
    predict,
    prepare_rows,
    score_baselines,
    train_classifier,
)
from llm.finetune.params import ClassifyTask, TrainingParams
from llm.text.tokenizer import Tokenizer

TRAINING = TrainingParams(
    epochs=4.0,
    batch_size=8,
    rates=[0.02],
    search_share=0.5,
    other_rate_ratio=0.5,
    weight_decay=0.0,
    clip_norm=10.0,
    warmup_share=0.1,
    decay_share=0.5,
    evals=3,
)
TASK = ClassifyTask(
    kind="classify",
    data="rows.csv",
    base="base",
    text_column="text",
    label_column="topic",
    split_column="split",
    max_tokens=32,
    training=TRAINING,
)


def _table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["text", "topic", "split"])


def _rain_and_river(n: int = 20) -> pd.DataFrame:
    splits = ["train", "train", "train", "val", "test"]
    rows = [(f"the rain falls {number}", "rain", splits[number % 5]) for number in range(n)]
    rows += [(f"a river runs {number}", "river", splits[number % 5]) for number in range(2 * n)]
    return _table(rows)


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


@pytest.fixture
def classifier(draw_gpt) -> Classifier:
    model = Classifier(draw_gpt(), 3)
    with torch.no_grad():
        model.score.weight.normal_(0, 1, generator=torch.Generator().manual_seed(5))
    return model


@torch.no_grad()
def test_a_score_does_not_depend_on_the_padding_or_what_it_is_made_of(classifier):
    text = torch.randint(6, 320, (1, 11), generator=torch.Generator().manual_seed(1))
    alone = classifier(text, torch.tensor([11]))
    for width, fill in ((1, 1), (20, 1), (20, 77)):
        padded = torch.nn.functional.pad(text, (0, width), value=fill)
        torch.testing.assert_close(classifier(padded, torch.tensor([11])), alone, atol=1e-5, rtol=0)
    assert not torch.allclose(classifier(text, torch.tensor([10])), alone, atol=1e-2)


def test_scores_come_in_the_order_of_the_rows_whatever_the_batch(classifier, plain_cpu):
    drawn = np.random.default_rng(2)
    rows = [drawn.integers(6, 320, length).tolist() for length in (9, 2, 40, 1, 17, 5, 33)]
    alone = torch.cat([predict(classifier, [row], 1, 1, plain_cpu) for row in rows])
    for batch_size in (1, 2, 100):
        torch.testing.assert_close(predict(classifier, rows, 1, batch_size, plain_cpu), alone, atol=1e-5, rtol=0)


def test_rows_are_cut_to_max_tokens_and_counted(tokenizer):
    table = _rain_and_river()
    long = "the rain falls " * 30
    table.loc[0, "text"] = table.loc[3, "text"] = long
    prepared = prepare_rows(table, TASK, tokenizer, context_length=48)
    assert prepared.report["rows_cut_to_max_tokens"] == 2
    assert prepared.rows["train"].ids[0] == tokenizer.encode(long)[:32]
    assert max(len(ids) for rows in prepared.rows.values() for ids in rows.ids) == 32


def test_every_row_keeps_its_label(tokenizer):
    table = _rain_and_river()
    prepared = prepare_rows(table, TASK, tokenizer, context_length=48)
    for split, rows in prepared.rows.items():
        given = table[table["split"] == split]
        assert rows.texts == given["text"].tolist()
        assert [prepared.labels[number] for number in rows.labels] == given["topic"].tolist()
        assert prepared.report["rows"][split] == len(given)


def test_a_label_that_train_never_saw_is_dropped_and_counted(tokenizer):
    strange = _table([("snow", "snow", "test"), ("more snow", "snow", "val"), ("ice", "ice", "test")])
    prepared = prepare_rows(pd.concat([_rain_and_river(), strange]), TASK, tokenizer, context_length=48)
    assert prepared.labels == ["rain", "river"]
    assert prepared.report["dropped_label_not_in_train"] == 3
    assert prepared.report["rows"] == {"train": 36, "val": 12, "test": 12}


REFUSED = {
    "one label only": (
        _table([("a", "rain", "train"), ("b", "rain", "val"), ("c", "river", "test")]),
        48,
        ["rows.csv", "topic", "two labels", "only rain"],
    ),
    "a test of labels that train never saw": (
        _table([("a", "rain", "train"), ("b", "sun", "train"), ("c", "rain", "val"), ("d", "ice", "test")]),
        48,
        ["rows.csv", "test"],
    ),
    "more tokens than the base reads": (_rain_and_river(), 31, ["max_tokens", "31", "32"]),
}


@pytest.mark.parametrize(("table", "context_length", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_learned_is_one_line(tokenizer, table, context_length, words):
    with pytest.raises(UserError) as caught:
        prepare_rows(table, TASK, tokenizer, context_length)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_what_a_word_decides_is_learned_by_model_and_tfidf(tmp_path, tokenizer, draw_gpt, plain_cpu):
    prepared = prepare_rows(_rain_and_river(), TASK, tokenizer, context_length=48)
    trained = train_classifier(draw_gpt, prepared, TASK, tokenizer.pad, 1, plain_cpu, tmp_path, "pretrained")
    baselines = score_baselines(prepared, seed=1)
    assert trained.figures["accuracy"] == baselines["tfidf"]["accuracy"] == 1
    assert baselines["majority"]["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert baselines["majority"]["setting"] == {"label": "river"}
    assert [prepared.labels[number] for number in trained.predicted] == ["rain"] * 4 + ["river"] * 8


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embedding_and_blocks_are_trained_and_an_untied_head_is_not(tmp_path, tokenizer, draw_gpt, plain_cpu, tied):
    prepared = prepare_rows(_rain_and_river(), TASK, tokenizer, context_length=48)
    before = draw_gpt(tie_embeddings=tied)
    after = train_classifier(
        lambda: draw_gpt(tie_embeddings=tied), prepared, TASK, tokenizer.pad, 1, plain_cpu, tmp_path, "row"
    ).model.trunk
    assert not torch.equal(after.embedding.weight, before.embedding.weight)
    assert not torch.equal(after.blocks[0].attention.query.weight, before.blocks[0].attention.query.weight)
    assert torch.equal(after.head.weight, before.head.weight) is not tied


def test_nothing_is_chosen_by_the_labels_of_test(tmp_path, tokenizer, draw_gpt, plain_cpu):
    prepared = prepare_rows(_rain_and_river(), TASK, tokenizer, context_length=48)
    test = prepared.rows["test"]
    other = replace(prepared, rows=prepared.rows | {"test": replace(test, labels=1 - test.labels)})
    first, second = score_baselines(prepared, seed=1), score_baselines(other, seed=1)
    assert [first[row]["setting"] for row in first] == [second[row]["setting"] for row in second]
    runs = [
        train_classifier(draw_gpt, rows, TASK, tokenizer.pad, 1, plain_cpu, tmp_path / name, "row")
        for name, rows in (("first", prepared), ("second", other))
    ]
    assert runs[0].curve == runs[1].curve
    assert (runs[0].predicted == runs[1].predicted).all()
    assert runs[0].figures["accuracy"] == 1 - runs[1].figures["accuracy"]


def test_the_confusion_table_has_a_row_for_each_prediction(tmp_path):
    labels, actual, predicted = ["a, b", 'c "d"', "$e$"], np.array([0, 1, 2, 1]), np.array([0, 2, 2, 1])
    draw_plots(tmp_path, labels, actual, predicted, [{"step": 1, "train_loss": 1.0, "val_loss": 2.0, "rate": 0.5}])
    with (tmp_path / "confusion.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["actual", "predicted"]
    assert rows[1:] == [[labels[a], labels[p]] for a, p in zip(actual, predicted, strict=True)]
    assert (tmp_path / "confusion.svg").read_text().count("<svg") == 1
    assert (tmp_path / "curve.svg").read_text().count("<svg") == 1
