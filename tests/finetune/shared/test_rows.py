"""Rows mark answers and their ends; losses count these tokens alone, packed or not."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from llm.finetune.data.messages import Conversation
from llm.finetune.instruct.job import COUNTED
from llm.finetune.shared.chat import Message, conversation_ids
from llm.finetune.shared.rows import ANSWER, ASSISTANT, END, Row, answer_figures, make_row, row_nats, token_losses
from llm.tokens.special import IM_END

PAIRS = [("go", "The river runs."), ("say what falls", "rain"), ("walk the path", "names, if"), ("hm", "déjà vu")]
TALK = [
    Message("system", "Be brief."),
    *(Message(role, f"{role[0]}{number} é") for number in range(3) for role in ("user", "assistant")),
]


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[Row]:
    return [make_row(tokenizer, [Message("user", user), Message("assistant", text)]) for user, text in PAIRS]


def texts_of(tokenizer, row: Row, part: int) -> list[str]:
    """The texts of consecutive tokens of one part."""
    found: list[list[int]] = []
    for token, here, before in zip(row.ids, row.parts, [None, *row.parts], strict=False):
        if here == part:
            found += [[]] if before != part else []
            found[-1].append(token)
    return [tokenizer.decode(ids) for ids in found]


@pytest.mark.parametrize("last_only", [False, True])
def test_answers_and_their_ends_are_marked(tokenizer, last_only):
    row = make_row(tokenizer, TALK, last_only)
    answers = ["a2 é"] if last_only else ["a0 é", "a1 é", "a2 é"]
    assert texts_of(tokenizer, row, ANSWER) == answers
    assert texts_of(tokenizer, row, END) == [IM_END] * len(answers)
    assert row.ids == [*conversation_ids(tokenizer, TALK[:-1]), *tokenizer.encode("a2 é"), tokenizer.special[IM_END]]
    assert row.prompt_ids == conversation_ids(tokenizer, TALK[:-1])
    assert row.n_bytes == len("".join(answers).encode())


def test_targets_are_the_counted_parts_without_the_first_token(tokenizer):
    conversation: Conversation = [Message("user", "go"), Message("assistant", "rain")]
    row = make_row(tokenizer, conversation)
    n_prompt = len(row.prompt_ids)
    assert row.target(COUNTED["assistant"]) == [-100] * n_prompt + row.ids[n_prompt:]
    assert row.target(COUNTED["all"]) == [-100, *row.ids[1:]]


@torch.no_grad()
def counted_nats(model, rows: list[Row], counted) -> torch.Tensor:
    """The losses of the counted tokens of each row by itself."""
    found = []
    for row in rows:
        ids = torch.tensor(row.ids)
        losses = cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none")
        found.append(losses[[part in counted for part in row.parts[1:]]])
    return torch.cat(found)


@pytest.mark.parametrize("loss_on", COUNTED)
@pytest.mark.parametrize(
    "shape",
    [{"family": family} for family in ("qwen3", "qwen2", "llama", "gpt2")]
    + [{"positions": scheme} for scheme in ("none", "sinusoidal", "learned")],
    ids=lambda shape: "-".join(shape.values()),
)
def test_packed_rows_have_the_losses_that_they_have_alone(draw_gpt, rows, plain_cpu, shape, loss_on):
    model, counted = draw_gpt(**shape, context_length=64), COUNTED[loss_on]
    packs = [[rows[0], rows[1]], [rows[2]], [rows[3], rows[1]]]
    with torch.no_grad():
        packed = token_losses(model, packs, counted, 1, plain_cpu)
    alone = counted_nats(model, [row for pack in packs for row in pack], counted)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_nats_of_rows_do_not_depend_on_the_batch(draw_gpt, tokenizer, rows, plain_cpu, batch_size):
    model = draw_gpt()
    expected = [counted_nats(model, [row], ASSISTANT).sum().item() for row in rows]
    assert row_nats(model, rows, ASSISTANT, tokenizer.pad, batch_size, plain_cpu) == pytest.approx(expected, abs=1e-4)


def test_figures_are_those_of_the_answers_alone(draw_gpt, tokenizer, rows, plain_cpu):
    model, answers = draw_gpt(), frozenset({ANSWER})
    nats = counted_nats(model, rows, answers)
    figures = answer_figures(model, rows, tokenizer.pad, 4, plain_cpu, seed=1)
    n_bytes = np.array([len(text.encode()) for _, text in PAIRS])
    bits = figures["answer_bits_per_byte"]
    assert bits == pytest.approx(nats.sum().item() / math.log(2) / n_bytes.sum(), abs=1e-4)
    assert figures["answer_nats_per_token"] == pytest.approx(nats.mean().item(), abs=1e-4)
    of_rows = row_nats(model, rows, answers, tokenizer.pad, 4, plain_cpu) / math.log(2) / n_bytes
    low, high = figures["answer_bits_per_byte_low"], figures["answer_bits_per_byte_high"]
    assert of_rows.min() - 1e-4 <= low < bits < high <= of_rows.max() + 1e-4
    one = answer_figures(model, rows[:1], tokenizer.pad, 4, plain_cpu, seed=1)
    assert one.keys() == {"answer_bits_per_byte", "answer_nats_per_token"}
