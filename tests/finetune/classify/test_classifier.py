"""Labeled texts become rows of ids and numbers, and a classifier learns from them what its task asks for."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from llm.core.errors import UserError
from llm.finetune.classify.classifier import (
    Prepared,
    balanced_weights,
    label_loss,
    number_labels,
    predict,
    prepare_rows,
    train_classifier,
)
from llm.finetune.data.labeled import Labeled
from llm.model.classifier import Classifier
from llm.tokens.templates import classifier_ids
from llm.tokens.tokenizer import Tokenizer

EPOCHS = {"training.epochs": 4.0, "training.n_evals": 3, "max_tokens": 32}


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


@pytest.fixture(scope="module")
def task(make_task):
    return make_task("classify", EPOCHS)


def _labeled(rows: list[tuple[list[str], list[str], str]]) -> Labeled:
    table = pd.DataFrame(rows, columns=["texts", "labels", "split"])
    return Labeled(table.assign(row=range(1, len(table) + 1)), {"skipped": {}})


def _rain_and_river(n: int = 20) -> Labeled:
    """Twice as many rivers as rains, and a word tells them apart."""
    splits = ["train", "train", "train", "val", "test"]
    rows = [([f"the rain falls {number}"], ["rain"], splits[number % 5]) for number in range(n)]
    return _labeled(rows + [([f"a river runs {number}"], ["river"], splits[number % 5]) for number in range(2 * n)])


def _weather(n: int = 60) -> Labeled:
    """Any of three words in a text, and just these as its labels."""
    words, splits = ["rain", "river", "sun"], ["train", "train", "train", "val", "test"]
    chosen = [[word for place, word in enumerate(words) if number >> place & 1] for number in range(n)]
    rows = [(["it: " + " ".join(labels)], labels, splits[number // 8 % 5]) for number, labels in enumerate(chosen)]
    return _labeled(rows)


@pytest.fixture
def train(tmp_path, tokenizer, draw_gpt, plain_cpu):
    """Trains on a drawn trunk; `shape` is the trunk's."""

    def train_one(prepared: Prepared, task, name: str = "row", seed: int = 1, **shape: object):
        return train_classifier(
            lambda: draw_gpt(**shape),
            prepared,
            task,
            task.method,
            task.training,
            tokenizer.pad,
            seed,
            plain_cpu,
            tmp_path / name,
            "row",
        )

    return train_one


def test_scores_come_in_the_order_of_the_rows_whatever_the_batch(draw_gpt, plain_cpu):
    model = Classifier(draw_gpt(), 3)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(5))
    drawn = np.random.default_rng(2)
    rows = [drawn.integers(6, 320, length).tolist() for length in (9, 2, 40, 1, 17, 5, 33)]
    alone = torch.cat([predict(model, [row], 1, 1, plain_cpu) for row in rows])
    for batch_size in (1, 2, 100):
        torch.testing.assert_close(predict(model, rows, 1, batch_size, plain_cpu), alone, atol=1e-5, rtol=0)


def test_every_row_keeps_its_texts_and_its_label(tokenizer, task):
    labeled = _rain_and_river()
    prepared = prepare_rows(labeled, task, tokenizer, context_length=48)
    for split, rows in prepared.rows.items():
        given = labeled.table[labeled.table["split"] == split]
        assert rows.texts == given["texts"].tolist()
        assert [[prepared.labels[number]] for number in rows.labels] == given["labels"].tolist()
        assert rows.ids == [[*tokenizer.encode(text), tokenizer.end_of_text] for (text,) in rows.texts]
    assert prepared.report["rows"] == {"train": 36, "val": 12, "test": 12}
    assert not prepared.is_multilabel


@pytest.mark.parametrize("n_texts", [1, 2])
def test_rows_are_cut_to_max_tokens_and_counted(tokenizer, make_task, n_texts):
    columns = ["text", "other"][:n_texts]
    task = make_task("classify", EPOCHS | {"text_columns": columns})
    texts = {"train": "rain " * 40, "val": "x" * (32 - n_texts), "test": "x" * (33 - n_texts)}
    rows = [([text, *[""] * (n_texts - 1)], [label], split) for split, text in texts.items() for label in "ab"]
    prepared = prepare_rows(_labeled(rows), task, tokenizer, context_length=48)
    assert {split: len(part.ids[0]) for split, part in prepared.rows.items()} == {"train": 32, "val": 32, "test": 32}
    assert prepared.report["rows_cut_to_max_tokens"] == 4
    encoded = [tokenizer.encode(text) for text in prepared.rows["train"].texts[0]]
    assert prepared.rows["train"].ids[0] == classifier_ids(encoded, tokenizer.special, 32)


def test_what_was_left_out_of_the_file_is_in_the_report(tokenizer, task):
    labeled = replace(_rain_and_river(), counts={"skipped": {"empty text": 3}})
    assert prepare_rows(labeled, task, tokenizer, 48).report["skipped"] == {"empty text": 3}


def test_any_number_of_labels_is_a_row_of_ones(tokenizer, make_task):
    task = make_task("classify", EPOCHS | {"label_separator": "|"})
    prepared = prepare_rows(_weather(), task, tokenizer, 48)
    assert prepared.labels == ["rain", "river", "sun"]
    assert prepared.is_multilabel
    train = prepared.rows["train"]
    for (text,), ones in zip(train.texts, train.labels, strict=True):
        assert [int(label in text) for label in prepared.labels] == ones.tolist()
    assert number_labels([["b"], [], ["b", "a"]], ["a", "b"], any_number=True).tolist() == [[0, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("columns", "max_tokens", "context", "wanted"),
    [(["a"], 32, 31, "2 to 31"), (["a"], 1, 48, "2 to 48"), (["a", "b"], 3, 48, "4 to 48")],
)
def test_a_length_that_no_row_has_is_one_line(tokenizer, make_task, columns, max_tokens, context, wanted):
    task = make_task("classify", {"text_columns": columns, "max_tokens": max_tokens})
    with pytest.raises(UserError, match=f"^max_tokens: wanted {wanted}, the base's context, given {max_tokens}$"):
        prepare_rows(_rain_and_river(), task, tokenizer, context)


def test_balanced_weights_are_those_of_scikit_learn():
    drawn = np.random.default_rng(1)
    labels = drawn.choice(4, 50, p=[0.6, 0.2, 0.1, 0.1])
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 4), wanted, rtol=1e-6)
    ones = (drawn.random((50, 3)) < [0.1, 0.5, 0.9]).astype(np.int64)
    each = [compute_class_weight("balanced", classes=np.arange(2), y=column) for column in ones.T]
    np.testing.assert_allclose(balanced_weights(ones, 3), np.stack(each, axis=1), rtol=1e-6)
    assert balanced_weights(np.array([[1, 0], [1, 1]]), 2).isfinite().all()


def test_with_balanced_weights_every_label_has_the_same_part_of_the_loss():
    labels = np.array([0, 0, 0, 1])
    scores = torch.tensor([[2.0, -1.0]]).expand(4, 2)
    losses = [float(label_loss(scores[:1], torch.tensor([label]))) for label in (0, 1)]
    whole = label_loss(scores, torch.from_numpy(labels), balanced_weights(labels, 2))
    assert float(whole) == pytest.approx(sum(losses) / 2)
    ones = torch.tensor([[0], [0], [0], [1]])
    score = torch.full((4, 1), 2.0)
    yes, no = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    assert float(label_loss(score, ones)) == pytest.approx((3 * no + yes) / 4)
    assert float(label_loss(score, ones, balanced_weights(ones.numpy(), 1))) == pytest.approx((no + yes) / 2)


def test_smoothing_takes_a_share_of_the_target_to_all_labels():
    scores = torch.tensor([[2.0, -1.0, 0.5]])
    logs = scores.log_softmax(dim=-1)[0]
    wanted = -(0.7 * logs[1] + 0.1 * logs.sum())
    assert float(label_loss(scores, torch.tensor([1]), smoothing=0.3)) == pytest.approx(float(wanted))
    for one, target in ((1, 0.85), (0, 0.15)):
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.full((1, 3), target))
        found = label_loss(scores, torch.full((1, 3), one), smoothing=0.3)
        assert float(found) == pytest.approx(float(wanted))


def test_what_a_word_decides_is_learned(tokenizer, task, train):
    trained = train(prepare_rows(_rain_and_river(), task, tokenizer, 48), task)
    assert trained.test.is_right().tolist() == [1] * 12
    assert trained.val.scores.shape == (12, 2)
    assert trained.setting["trained_weights"] == trained.setting["weights"] == trained.model.n_parameters()
    assert (trained.setting["rate"], trained.setting["steps"]) == (trained.rate, 20) == (0.02, 20)


def test_any_number_of_labels_is_learned(tokenizer, make_task, train):
    task = make_task("classify", EPOCHS | {"label_separator": "|", "training.epochs": 12.0})
    trained = train(prepare_rows(_weather(), task, tokenizer, 48), task)
    assert trained.test.is_right().mean() > 0.9
    assert (trained.test.predict().sum(axis=1) == trained.test.actual.sum(axis=1)).mean() > 0.9


def test_the_second_text_is_seen(tokenizer, make_task, train):
    task = make_task("classify", EPOCHS | {"text_columns": ["first", "second"], "training.epochs": 8.0})
    labeled = _rain_and_river()
    texts = [[f"say {number}", text] for number, (text,) in enumerate(labeled.table["texts"])]
    labeled = Labeled(labeled.table.assign(texts=texts), labeled.counts)
    assert train(prepare_rows(labeled, task, tokenizer, 48), task).test.is_right().all()


@pytest.mark.parametrize("key", ["class_weights", "label_smoothing"])
def test_weights_and_smoothing_change_what_is_learned(tokenizer, make_task, task, train, key):
    prepared = prepare_rows(_rain_and_river(), task, tokenizer, 48)
    values = {"class_weights": "balanced", "label_smoothing": 0.3}
    changed = make_task("classify", EPOCHS | {key: values[key]})
    plain, other = train(prepared, task, "plain"), train(prepared, changed, "other")
    assert not np.array_equal(plain.test.scores, other.test.scores)
    # The loss on val is weighted as the training's is, and smoothed it is not.
    scores, labels = torch.from_numpy(other.val.scores), torch.from_numpy(other.val.actual)
    weights = balanced_weights(prepared.rows["train"].labels, 2) if key == "class_weights" else None
    best = min(row["val_loss"] for row in other.curve.rows)
    assert float(label_loss(scores, labels, weights)) == pytest.approx(best, abs=1e-5)


def test_a_base_with_dropout_is_trained_with_it_and_the_same_one_each_time(tokenizer, task, train):
    prepared = prepare_rows(_rain_and_river(), task, tokenizer, 48)
    runs = [train(prepared, task, name, dropout=rate) for name, rate in (("a", 0.2), ("b", 0.2), ("c", 0.0))]
    assert np.array_equal(runs[0].test.scores, runs[1].test.scores)
    assert runs[0].curve.rows[0]["train_loss"] != runs[2].curve.rows[0]["train_loss"]


def test_another_seed_takes_the_rows_in_another_order(tokenizer, task, train):
    prepared = prepare_rows(_rain_and_river(), task, tokenizer, 48)
    first, second = train(prepared, task, "first"), train(prepared, task, "second", seed=2)
    assert first.curve != second.curve


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embedding_and_blocks_are_trained_and_an_untied_head_is_not(tokenizer, task, train, draw_gpt, tied):
    trained = train(prepare_rows(_rain_and_river(), task, tokenizer, 48), task, tie_embeddings=tied)
    before, after = draw_gpt(tie_embeddings=tied), trained.model.trunk
    assert not torch.equal(after.embedding.weight, before.embedding.weight)
    assert not torch.equal(after.blocks[0].attention.query.weight, before.blocks[0].attention.query.weight)
    assert torch.equal(after.head.weight, before.head.weight) is not tied
    assert trained.setting["trained_weights"] == trained.setting["weights"]


@pytest.mark.parametrize("kind", ["lora", "dora", "head", "last_k_blocks"])
def test_a_method_trains_its_share_and_leaves_a_plain_trunk(tokenizer, make_task, train, draw_gpt, plain_cpu, kind):
    task = make_task("classify", EPOCHS | {"method.kind": kind, "training.epochs": 2.0})
    prepared = prepare_rows(_rain_and_river(), task, tokenizer, 48)
    trained = train(prepared, task)
    assert 48 < trained.setting["trained_weights"] < 0.8 * trained.setting["weights"]
    before, after = draw_gpt().state_dict(), trained.model.trunk.state_dict()
    assert before.keys() == after.keys()
    assert torch.equal(before["embedding.weight"], after["embedding.weight"])
    assert trained.model.score.weight.any()
    plain = Classifier(draw_gpt(), 2)
    plain.load_state_dict(trained.model.state_dict())
    scores = predict(plain, prepared.rows["test"].ids, tokenizer.pad, 8, plain_cpu)
    torch.testing.assert_close(scores.numpy(), trained.test.scores, atol=1e-5, rtol=0)


def test_nothing_is_chosen_by_the_labels_of_test(tokenizer, task, train):
    prepared = prepare_rows(_rain_and_river(), task, tokenizer, 48)
    test = prepared.rows["test"]
    other = replace(prepared, rows=prepared.rows | {"test": replace(test, labels=1 - test.labels)})
    first, second = train(prepared, task, "first"), train(other, task, "second")
    assert first.curve == second.curve
    assert np.array_equal(first.test.scores, second.test.scores)
    assert (first.test.is_right() == 1 - second.test.is_right()).all()
