"""An instruction model learns the answers and where they end; prompts are only read, packed or not."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from llm.core.errors import UserError
from llm.finetune.data.messages import Conversation
from llm.finetune.instruct.instruct import (
    ANSWER,
    END,
    LEARNED,
    READ,
    Row,
    answer_figures,
    cut_row,
    make_row,
    prepare_rows,
    row_nats,
    split_row,
    token_losses,
    train_instruct,
)
from llm.finetune.shared.answers import answer
from llm.finetune.shared.chat import Message, conversation_ids, turn_ids
from llm.tokens.special import IM_END
from llm.tokens.tokenizer import Tokenizer

PAIRS = [("go", "The river runs."), ("say what falls", "rain"), ("walk the path", "names, if"), ("hm", "déjà vu")]
SPLITS = ("train", "val", "test")
# 12 and more tokens a turn: three turns are a conversation of about 50.
TALK = [
    Message("system", "Be brief."),
    *(Message(role, f"{role[0]}{number} é") for number in range(3) for role in ("user", "assistant")),
]


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file) -> Tokenizer:
    return Tokenizer.load(small_tokenizer_file)


def _pair(user: str, text: str) -> Conversation:
    return [Message("user", user), Message("assistant", text)]


def _row(tokenizer: Tokenizer, messages: Conversation, last_only: bool = False) -> Row:
    turns = [turn_ids(tokenizer, message) for message in messages]
    return make_row(messages, turns, tokenizer.bos_id, last_only)


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[Row]:
    return [_row(tokenizer, _pair(*pair)) for pair in PAIRS]


def _text(tokenizer: Tokenizer, row: Row, part: int) -> list[str]:
    """The stretches of a row that are of one part."""
    stretches: list[list[int]] = []
    before = None
    for token, here in zip(row.ids, row.parts, strict=True):
        if here == part:
            stretches += [[]] if before != part else []
            stretches[-1].append(token)
        before = here
    return [tokenizer.decode(ids) for ids in stretches]


def test_of_a_conversation_the_answers_and_their_ends_are_marked(tokenizer):
    row = _row(tokenizer, TALK)
    assert _text(tokenizer, row, ANSWER) == ["a0 é", "a1 é", "a2 é"]
    assert _text(tokenizer, row, END) == [IM_END] * 3
    assert row.ids == [*conversation_ids(tokenizer, TALK[:-1]), *tokenizer.encode("a2 é"), tokenizer.special[IM_END]]
    assert row.prompt_ids == conversation_ids(tokenizer, TALK[:-1])
    assert row.n_bytes == 3 * len("a0 é".encode())


def test_only_the_last_answer_is_marked_where_that_is_wanted(tokenizer):
    row = _row(tokenizer, TALK, last_only=True)
    assert (row.ids, row.prompt_ids) == (_row(tokenizer, TALK).ids, _row(tokenizer, TALK).prompt_ids)
    assert _text(tokenizer, row, ANSWER) == ["a2 é"]
    assert _text(tokenizer, row, END) == [IM_END]
    assert row.n_bytes == 5


def test_the_target_is_what_is_learned_and_never_the_first_token(tokenizer):
    row = _row(tokenizer, _pair("go", "rain"))
    n_read = len(row.prompt_ids)
    assert row.target(LEARNED["assistant"]) == [-100] * n_read + row.ids[n_read:]
    assert row.target(LEARNED["all"]) == [-100, *row.ids[1:]]


@given(max_tokens=st.integers(1, 80))
@settings(max_examples=80)
def test_a_cut_row_is_the_beginning_of_the_whole_one_and_ends_in_an_answer(tokenizer, max_tokens):
    row = _row(tokenizer, TALK)
    cut = cut_row(row, max_tokens, tokenizer)
    if cut is None:
        assert ANSWER not in row.parts[:max_tokens]
        return
    assert (cut.ids, cut.parts) == (row.ids[: len(cut.ids)], row.parts[: len(cut.ids)])
    assert len(cut.ids) <= max_tokens
    assert cut.parts[-1] != READ
    assert set(row.parts[len(cut.ids) : max_tokens]) <= {READ}
    assert cut.messages == row.messages[: len(cut.messages)]
    said = _text(tokenizer, cut, ANSWER)
    wanted = [message.content for message in cut.messages if message.role == "assistant"]
    assert said[:-1] == wanted[:-1]
    assert wanted[-1].startswith(said[-1].rstrip("\ufffd"))
    if "\ufffd" not in said[-1]:
        assert cut.n_bytes == len("".join(said).encode())


def test_a_cut_answer_has_no_end_and_one_cut_to_nothing_is_no_row(tokenizer):
    row = _row(tokenizer, _pair("go", "The river runs."))
    n_read = len(row.prompt_ids)
    assert cut_row(row, n_read, tokenizer) is None
    cut = cut_row(row, len(row.ids) - 1, tokenizer)
    assert END not in cut.parts
    assert cut.n_bytes == len("The river runs.")
    assert cut.parts.count(ANSWER) == row.parts.count(ANSWER)


@given(max_tokens=st.integers(20, 90))
@settings(max_examples=60)
def test_a_split_conversation_has_each_turn_once_behind_the_system_message(tokenizer, max_tokens):
    turns = [turn_ids(tokenizer, message) for message in TALK]
    parts, n_dropped = split_row(TALK, turns, tokenizer.bos_id, max_tokens)
    assert all(len(row.ids) <= max_tokens for row in parts)
    assert all(row.messages[0] == TALK[0] and row.messages[1].role == "user" for row in parts)
    kept = [message for row in parts for message in row.messages[1:]]
    assert len(kept) + 2 * n_dropped == len(TALK) - 1
    assert kept == (TALK[1:] if not n_dropped else [])
    for before, after in pairwise(parts):
        assert len(_row(tokenizer, [*before.messages, *after.messages[1:3]]).ids) > max_tokens


def test_a_turn_that_is_too_long_alone_parts_those_around_it(tokenizer):
    long = [*TALK[:3], Message("user", "rain " * 60), TALK[4], *TALK[5:]]
    turns = [turn_ids(tokenizer, message) for message in long]
    parts, n_dropped = split_row(long, turns, tokenizer.bos_id, 91)
    assert n_dropped == 1
    assert [row.messages for row in parts] == [TALK[:3], [TALK[0], *TALK[5:]]]


def _by_split(*conversations: Conversation, train: list[Conversation] | None = None) -> dict[str, list[Conversation]]:
    return {split: list(conversations) for split in SPLITS} | ({} if train is None else {"train": train})


GOOD = _pair("go", "on")
LONG = _pair("go", "rain " * 50)
LONG_PROMPT = _pair("rain " * 50, "go")


@pytest.mark.parametrize(
    ("on_overflow", "n_train", "counts"),
    [
        ("drop", 1, {"dropped_too_long": 3}),
        ("cut", 3, {"dropped_too_long": 1, "cut_too_long": 2}),
        ("split", 4, {"dropped_too_long": 2, "split_too_long": 1}),
    ],
)
def test_what_happens_to_long_rows_is_counted(make_task, draw_gpt, tokenizer, on_overflow, n_train, counts):
    task = make_task("instruct", {"on_overflow": on_overflow})
    given_ = _by_split(GOOD, train=[GOOD, LONG, LONG_PROMPT, TALK[1:]])
    assert len(_row(tokenizer, TALK[1:]).ids) > 40 > len(_row(tokenizer, TALK[1:3]).ids)
    rows, report = prepare_rows(given_, task, tokenizer, draw_gpt().config)
    assert report == {"rows": {"train": n_train, "val": 1, "test": 1}, **counts}
    assert all(len(row.ids) <= 40 for part in rows.values() for row in part)
    assert rows["val"] == [_row(tokenizer, GOOD)]


def test_a_row_of_exactly_max_tokens_is_kept(make_task, draw_gpt, tokenizer):
    length = len(_row(tokenizer, GOOD).ids)
    config = draw_gpt().config
    exact, shorter = (make_task("instruct", {"max_tokens": n}) for n in (length, length - 1))
    assert prepare_rows(_by_split(GOOD), exact, tokenizer, config)[1]["dropped_too_long"] == 0
    with pytest.raises(UserError):
        prepare_rows(_by_split(GOOD), shorter, tokenizer, config)


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_of_which_nothing_is_left_is_named(make_task, draw_gpt, tokenizer, split):
    given_ = _by_split(GOOD) | {split: [LONG]}
    with pytest.raises(UserError, match=f"^rows.csv: wanted rows of at most 40 tokens in {split}, given none$"):
        prepare_rows(given_, make_task("instruct"), tokenizer, draw_gpt().config)


def test_what_the_base_cannot_do_is_an_error(make_task, draw_gpt, tokenizer):
    with pytest.raises(UserError, match=r"^max_tokens: wanted at most the base's context of 39, given 40$"):
        prepare_rows(_by_split(GOOD), make_task("instruct"), tokenizer, draw_gpt(context_length=39).config)
    packed = make_task("instruct", {"packing": True})
    with pytest.raises(UserError, match=r"^packing: wanted false, for a GRU's state runs on"):
        prepare_rows(_by_split(GOOD), packed, tokenizer, draw_gpt(family="gru").config)


@torch.no_grad()
def _losses_alone(model, row: Row) -> torch.Tensor:
    """The loss of every token but the first, from the logits of one whole row."""
    ids = torch.tensor(row.ids)
    return cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none")


def _nats_of_answers(model, rows: list[Row], counted: set[int]) -> torch.Tensor:
    return torch.cat([_losses_alone(model, row)[[part in counted for part in row.parts[1:]]] for row in rows])


@pytest.mark.parametrize("learn", LEARNED)
@pytest.mark.parametrize(
    "shape",
    [{"family": family} for family in ("qwen3", "qwen2", "llama", "gpt2")]
    + [{"positions": scheme} for scheme in ("none", "sinusoidal", "learned")],
    ids=lambda shape: "-".join(shape.values()),
)
def test_packed_rows_have_the_losses_that_they_have_alone(draw_gpt, rows, plain_cpu, shape, learn):
    model = draw_gpt(**shape, context_length=64)
    packs = [[rows[0], rows[1]], [rows[2]], [rows[3], rows[1]]]
    with torch.no_grad():
        packed = token_losses(model, packs, LEARNED[learn], 1, plain_cpu)
    alone = _nats_of_answers(model, [row for pack in packs for row in pack], LEARNED[learn])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


def test_the_figures_are_those_of_the_answers_tokens_alone(draw_gpt, tokenizer, rows, plain_cpu):
    model = draw_gpt()
    nats = _nats_of_answers(model, rows, {ANSWER})
    n_bytes = sum(len(text.encode()) for _, text in PAIRS)
    figures = answer_figures(model, rows, tokenizer.pad, 4, plain_cpu, seed=1)
    assert figures["answer_bits_per_byte"] == pytest.approx(nats.sum().item() / math.log(2) / n_bytes, abs=1e-4)
    assert figures["answer_nats_per_token"] == pytest.approx(nats.mean().item(), abs=1e-4)
    low, high = figures["answer_bits_per_byte_low"], figures["answer_bits_per_byte_high"]
    by_row = row_nats(model, rows, frozenset({ANSWER}), tokenizer.pad, 4, plain_cpu)
    of_rows = by_row / math.log(2) / np.array([row.n_bytes for row in rows])
    assert of_rows.min() - 1e-4 <= low < figures["answer_bits_per_byte"] < high <= of_rows.max() + 1e-4
    assert answer_figures(model, rows[:1], tokenizer.pad, 4, plain_cpu, seed=1).keys() == {
        "answer_bits_per_byte",
        "answer_nats_per_token",
    }


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_rows_nats_do_not_depend_on_the_padding_and_stand_in_order(draw_gpt, tokenizer, rows, plain_cpu, batch_size):
    model, counted = draw_gpt(), LEARNED["assistant"]
    expected = [_nats_of_answers(model, [row], counted).sum().item() for row in rows]
    nats = row_nats(model, rows, counted, tokenizer.pad, batch_size, plain_cpu)
    assert nats == pytest.approx(expected, abs=1e-4)


def _train(scratch, machine, draw_gpt, task, rows: list[Row], seed: int = 1, **by_split: list[Row]):
    parts = dict.fromkeys(SPLITS, rows) | by_split
    draw_wide = partial(draw_gpt, context_length=64)  # two rows fit
    return train_instruct(draw_wide, parts, task, task.training, 1, seed, machine, scratch, "instruct")


@pytest.mark.parametrize("learn", LEARNED)
@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_the_mean_over_what_is_learned(tmp_path, make_task, draw_gpt, rows, plain_cpu, learn, packing):
    """One step on one batch of all rows, of different lengths: nothing else and no padding is in the mean."""
    task = make_task("instruct", {"loss_on": learn, "packing": packing, "max_tokens": 64, "training.n_evals": 1})
    trained = _train(tmp_path, plain_cpu, draw_gpt, task, rows)
    losses = _nats_of_answers(draw_gpt(), rows, LEARNED[learn])
    assert len({len(row.ids) for row in rows}) == len(rows)
    assert trained.curve.rows[0]["train_loss"] == pytest.approx(losses.mean().item(), abs=1e-4)
    assert trained.setting["steps"] == 1


def test_the_weights_that_are_kept_have_the_loss_on_val_that_the_curve_says(
    tmp_path, make_task, draw_gpt, rows, plain_cpu
):
    task = make_task("instruct", {"training.batch_size": 2})
    trained = _train(tmp_path, plain_cpu, draw_gpt, task, rows, val=rows[1:])
    losses = _nats_of_answers(trained.model, rows[1:], LEARNED["assistant"])
    assert trained.curve.best()["val_loss"] == pytest.approx(losses.mean().item(), abs=1e-4)


@pytest.mark.parametrize("packing", [False, True])
def test_a_learned_answer_is_given_and_ended(tmp_path, make_task, draw_gpt, tokenizer, rows, plain_cpu, packing):
    task = make_task("instruct", {"training.epochs": 80.0, "packing": packing, "max_tokens": 64})
    trained = _train(tmp_path, plain_cpu, draw_gpt, task, rows)
    assert [answer(trained.model, user, tokenizer, 30) for user, _ in PAIRS] == [text for _, text in PAIRS]
    bits = [
        answer_figures(model, rows, tokenizer.pad, 4, plain_cpu, 1)["answer_bits_per_byte"]
        for model in (draw_gpt(), trained.model)
    ]
    assert bits[1] < bits[0] / 10


def test_packing_trains_to_the_same_bytes_again_after_a_kill(
    tmp_path, make_task, draw_gpt, rows, plain_cpu, monkeypatch
):
    task = make_task("instruct", {"training.epochs": 60.0, "packing": True, "max_tokens": 64, "training.batch_size": 1})
    whole = _train(tmp_path / "whole", plain_cpu, draw_gpt, task, rows)
    assert whole.setting["steps"] == 2 * 60, "two rows in each of two packs"
    calls = []

    def losses(*given_, **named):
        calls.append(1)
        if len(calls) == 120:
            raise RuntimeError("killed")
        return token_losses(*given_, **named)

    with monkeypatch.context() as patch:
        patch.setattr("llm.finetune.instruct.instruct.token_losses", losses)
        with pytest.raises(RuntimeError, match="killed"):
            _train(tmp_path / "killed", plain_cpu, draw_gpt, task, rows)
    resumed = _train(tmp_path / "killed", plain_cpu, draw_gpt, task, rows)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert resumed.curve == whole.curve


def test_dropout_is_drawn_from_the_seed_and_the_step(tmp_path, make_task, draw_gpt, rows, plain_cpu):
    task = make_task("instruct", {"training.batch_size": 2, "training.epochs": 2.0})

    def first_weight(name: str, rate: float, seed: int) -> torch.Tensor:
        trained = _train(tmp_path / name, plain_cpu, partial(draw_gpt, dropout=rate), task, rows, seed)
        return trained.model.blocks[0].attention.query.weight

    dropped = first_weight("one", 0.3, 1)
    assert torch.equal(dropped, first_weight("again", 0.3, 1))
    assert not torch.equal(dropped, first_weight("none", 0.0, 1))
