"""Long conversations are dropped, truncated or split; the loss is the mean of the counted tokens."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.finetune.data.messages import Conversation
from llm.finetune.instruct.job import COUNTED, make_objective, prepare_rows, split_row, truncate_row
from llm.finetune.shared.chat import Message
from llm.finetune.shared.job import Base, Run, fit
from llm.finetune.shared.language import answer
from llm.finetune.shared.rows import ANSWER, END, PROMPT, Row, make_row, token_losses
from tests.finetune.shared.test_rows import PAIRS, TALK  # about 12 tokens a turn of TALK

SPLITS = ("train", "val", "test")


def pair(user: str, text: str) -> Conversation:
    return [Message("user", user), Message("assistant", text)]


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[Row]:
    return [make_row(tokenizer, pair(*texts)) for texts in PAIRS]


@given(max_tokens=st.integers(1, 80))
@settings(max_examples=80)
def test_a_truncated_row_ends_in_an_answer(tokenizer, max_tokens):
    row = make_row(tokenizer, TALK)
    cut = truncate_row(row, max_tokens, tokenizer)
    if cut is None:
        assert ANSWER not in row.parts[:max_tokens]
        return
    n = len(cut.ids)
    assert (cut.ids, cut.parts, cut.messages) == (row.ids[:n], row.parts[:n], row.messages[: len(cut.messages)])
    assert n <= max_tokens
    assert cut.parts[-1] != PROMPT
    assert set(row.parts[n:max_tokens]) <= {PROMPT}
    n_bytes = [len(message.content.encode()) for message in cut.messages if message.role == "assistant"]
    assert sum(n_bytes[:-1]) < cut.n_bytes <= sum(n_bytes)


def test_a_truncated_answer_has_no_end(tokenizer):
    row = make_row(tokenizer, pair("go", "The river runs."))
    cut = truncate_row(row, len(row.ids) - 1, tokenizer)
    assert END not in cut.parts
    assert cut.n_bytes == len("The river runs.")


@given(max_tokens=st.integers(20, 90))
@settings(max_examples=60)
def test_a_split_conversation_has_each_turn_once(tokenizer, max_tokens):
    parts, n_dropped = split_row(TALK, max_tokens, tokenizer)
    assert all(len(row.ids) <= max_tokens for row in parts)
    assert all(row.messages[0] == TALK[0] and row.messages[1].role == "user" for row in parts)
    kept = [message for row in parts for message in row.messages[1:]]
    assert len(kept) + 2 * n_dropped == len(TALK) - 1
    assert kept == (TALK[1:] if not n_dropped else [])
    for before, after in pairwise(parts):
        assert len(make_row(tokenizer, [*before.messages, *after.messages[1:3]]).ids) > max_tokens


def test_a_turn_that_is_too_long_separates_those_around_it(tokenizer):
    long = [*TALK[:3], Message("user", "rain " * 60), TALK[4], *TALK[5:]]
    parts, n_dropped = split_row(long, 91, tokenizer)
    assert n_dropped == 1
    assert [row.messages for row in parts] == [TALK[:3], [TALK[0], *TALK[5:]]]


GOOD, LONG, LONG_PROMPT = pair("go", "on"), pair("go", "rain " * 50), pair("rain " * 50, "go")


@pytest.mark.parametrize(
    ("on_overflow", "n_train", "counts"),
    [
        ("drop", 1, {"dropped": {"too_long": 3}}),
        ("truncate", 3, {"dropped": {"too_long": 1}, "truncated": 2}),
        ("split", 4, {"dropped": {"too_long": 2}, "split": 1}),
    ],
)
def test_long_conversations_are_counted(make_task, tokenizer, on_overflow, n_train, counts):
    task = make_task("instruct", {"on_overflow": on_overflow})
    by_split = {"train": [GOOD, LONG, LONG_PROMPT, TALK[1:]], "val": [GOOD], "test": [GOOD]}
    rows, report, _ = prepare_rows(by_split, task, tokenizer, 48)
    assert report == {"rows": {"train": n_train, "val": 1, "test": 1}, **counts}
    assert all(len(row.ids) <= 40 for part in rows.values() for row in part)
    exact = make_task("instruct", {"max_tokens": len(rows["val"][0].ids)})
    assert prepare_rows({split: [GOOD] for split in SPLITS}, exact, tokenizer, 48)[1]["dropped"] == {"too_long": 0}
    with pytest.raises(UserError, match=r"^rows.csv: expected rows of at most 3 tokens in train, got none"):
        prepare_rows(by_split, make_task("instruct", {"max_tokens": 3}), tokenizer, 48)


@pytest.fixture
def fit_rows(tmp_path, make_task, draw_gpt, tokenizer, plain_cpu, rows):
    """Fit a model to rows with changed keys."""

    def run(changes: dict, name: str = "out", val: list[Row] | None = None, **shape: object):
        task = make_task("instruct", {"max_tokens": 64} | changes)
        base = Base(tmp_path, tokenizer, partial(draw_gpt, context_length=64, **shape))
        where = Run("instruct", 1, plain_cpu, tmp_path / name)
        by_split = {"train": rows, "val": val or rows, "test": rows}
        return fit(make_objective(by_split, task, base, where), task.method, task.training, where)

    return run


@pytest.mark.parametrize("loss_on", COUNTED)
@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_the_mean_over_counted_tokens(fit_rows, draw_gpt, rows, plain_cpu, loss_on, packing):
    fitted = fit_rows({"loss_on": loss_on, "packing": packing, "training.n_evals": 1}, val=rows[1:])
    of_train, of_val = (
        token_losses(model, [[row] for row in part], COUNTED[loss_on], 1, plain_cpu).mean().item()
        for model, part in ((draw_gpt(), rows), (fitted.model, rows[1:]))
    )
    assert fitted.setting["steps"] == 1
    assert fitted.curve.rows[0]["train_loss"] == pytest.approx(of_train, abs=1e-4)
    assert fitted.curve.best()["val_loss"] == pytest.approx(of_val, abs=1e-4)


@pytest.mark.parametrize("packing", [False, True])
def test_a_learned_answer_is_generated_and_ended(fit_rows, tokenizer, rows, packing):
    model = fit_rows({"training.epochs": 80.0, "packing": packing}).model
    assert [answer(model, row.prompt_ids, tokenizer, 30) for row in rows] == [text for _, text in PAIRS]


def test_dropout_depends_on_the_seed_and_the_step(fit_rows):
    changes = {"training.batch_size": 2, "training.epochs": 2.0}
    runs = [fit_rows(changes, str(n), dropout=p) for n, p in enumerate((0.3, 0.3, 0.0))]
    dropped, again, plain = (run.model.blocks[0].attention.query.weight for run in runs)
    assert torch.equal(dropped, again)
    assert not torch.equal(dropped, plain)
