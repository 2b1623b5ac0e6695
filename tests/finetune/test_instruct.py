"""An instruction model learns the answers and where they end; prompts are only read."""

import math

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from llm.errors import UserError
from llm.finetune.chat import prompt_ids
from llm.finetune.instruct import Row, answer, answer_bits_per_byte, prepare_rows, train_instruct
from llm.finetune.params import InstructTask, TrainingParams
from llm.text.tokenizer import IM_END, Tokenizer

TRAINING = TrainingParams(
    epochs=1.0,
    batch_size=4,
    rates=[0.02],
    search_share=0.5,
    other_rate_ratio=0.5,
    weight_decay=0.0,
    clip_norm=10.0,
    warmup_share=0.0,
    decay_share=0.5,
    evals=1,
)
TASK = InstructTask(
    kind="instruct",
    data="rows.csv",
    base="base",
    instruction_column="ask",
    input_column="given",
    output_column="answer",
    split_column="split",
    max_tokens=40,
    training=TRAINING,
)
PAIRS = [("go", "The river runs."), ("say what falls", "rain"), ("walk the path", "names, if"), ("hm", "déjà vu")]


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


def _row(tokenizer: Tokenizer, user: str, text: str) -> Row:
    return Row(user, text, prompt_ids(tokenizer, user), tokenizer.encode(text))


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[Row]:
    return [_row(tokenizer, user, text) for user, text in PAIRS]


@torch.no_grad()
def _nats_of_answers(model, rows: list[Row], tail: list[int]) -> torch.Tensor:
    """The loss of every answer token, each row alone, from the logits of the whole text."""
    losses = []
    for row in rows:
        ids = torch.tensor([*row.prompt_ids, *row.answer_ids, *tail])
        logits = model(ids[None, :-1])[0]
        losses.append(cross_entropy(logits, ids[1:], reduction="none")[len(row.prompt_ids) - 1 :])
    return torch.cat(losses)


def test_the_bits_are_those_of_the_answers_tokens_alone(draw_gpt, tokenizer, rows, plain_cpu):
    model = draw_gpt()
    n_bytes = sum(len(text.encode()) for _, text in PAIRS)
    expected = _nats_of_answers(model, rows, []).sum().item() / math.log(2) / n_bytes
    assert answer_bits_per_byte(model, rows, tokenizer, 4, plain_cpu) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_bits_do_not_depend_on_the_padding(draw_gpt, tokenizer, rows, plain_cpu, batch_size):
    model = draw_gpt()
    together = answer_bits_per_byte(model, rows, tokenizer, 4, plain_cpu)
    assert answer_bits_per_byte(model, rows, tokenizer, batch_size, plain_cpu) == pytest.approx(together, abs=1e-4)


def test_the_loss_is_the_mean_over_answers_and_end_markers(tmp_path, draw_gpt, tokenizer, rows, plain_cpu):
    """One step on one batch of all rows, of different lengths: no prompt token and no padding is in the mean."""
    by_split = {"train": rows, "val": rows[:1], "test": rows}
    fitted = train_instruct(draw_gpt, by_split, TASK, tokenizer, 1, plain_cpu, tmp_path)
    losses = _nats_of_answers(draw_gpt(), rows, [tokenizer.special[IM_END]])
    assert len({row.length for row in rows}) == len(rows)
    assert len(losses) == sum(len(row.answer_ids) + 1 for row in rows)
    assert fitted.curve.rows[0]["train_loss"] == pytest.approx(losses.mean().item(), abs=1e-4)


def test_the_weights_that_are_kept_have_the_loss_on_val_that_the_curve_says(
    tmp_path, draw_gpt, tokenizer, rows, plain_cpu
):
    by_split = {"train": rows, "val": rows[1:], "test": rows}
    fitted = train_instruct(draw_gpt, by_split, TASK, tokenizer, 1, plain_cpu, tmp_path)
    losses = _nats_of_answers(fitted.model, rows[1:], [tokenizer.special[IM_END]])
    assert fitted.curve.best()["val_loss"] == pytest.approx(losses.mean().item(), abs=1e-4)


def test_a_learned_answer_is_given_and_ended(tmp_path, draw_gpt, tokenizer, rows, plain_cpu):
    by_split = dict.fromkeys(("train", "val", "test"), rows)
    long = TASK.model_copy(update={"training": TRAINING.model_copy(update={"epochs": 80.0})})
    fitted = train_instruct(draw_gpt, by_split, long, tokenizer, 1, plain_cpu, tmp_path)
    assert [answer(fitted.model, user, tokenizer, 30) for user, _ in PAIRS] == [text for _, text in PAIRS]
    bits = [answer_bits_per_byte(model, rows, tokenizer, 4, plain_cpu) for model in (draw_gpt(), fitted.model)]
    assert bits[1] < bits[0] / 10


def _table(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["ask", "given", "answer", "split"])


GOOD = [("go", "on", f" {split} \n", split) for split in ("train", "val", "test")]


def test_rows_longer_than_max_tokens_are_dropped_and_counted(tokenizer):
    table = _table([*GOOD, ("go", "on", "rain " * 50, "train"), ("go", "on " * 50, "rain", "test")])
    kept, report = prepare_rows(table, TASK, tokenizer, context_length=48)
    assert report == {"rows": {"train": 1, "val": 1, "test": 1}, "dropped_too_long": 2}
    assert {split: [row.answer for row in part] for split, part in kept.items()} == {
        "train": ["train"],
        "val": ["val"],
        "test": ["test"],
    }
    (row,) = kept["val"]
    assert row.prompt_ids == prompt_ids(tokenizer, "go\n\non")


def test_a_row_of_exactly_max_tokens_is_kept(tokenizer):
    length = _row(tokenizer, "go\n\non", "train").length
    exact = TASK.model_copy(update={"max_tokens": length})
    table = _table([("go", "on", "train", split) for split in ("train", "val", "test")])
    assert prepare_rows(table, exact, tokenizer, context_length=48)[1]["dropped_too_long"] == 0
    with pytest.raises(UserError):
        prepare_rows(table, exact.model_copy(update={"max_tokens": length - 1}), tokenizer, context_length=48)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_of_which_nothing_is_left_is_named(tokenizer, split):
    table = _table([(ask, given, "rain " * 50 if s == split else text, s) for ask, given, text, s in GOOD])
    with pytest.raises(UserError, match=f"rows.csv: wanted rows of at most 40 tokens in {split}, given none"):
        prepare_rows(table, TASK, tokenizer, context_length=48)


def test_more_tokens_than_the_base_reads_are_an_error(tokenizer):
    with pytest.raises(UserError, match="max_tokens: wanted at most the base's context of 39, given 40"):
        prepare_rows(_table(GOOD), TASK, tokenizer, context_length=39)
