"""Rows mark answers and their ends; losses count these tokens alone, packed or not; forgetting is in bytes."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from llm.finetune.instruct.job import COUNTED
from llm.finetune.shared import language
from llm.finetune.shared.chat import Message, conversation_ids
from llm.finetune.shared.language import base_figures, read_held_out
from llm.finetune.shared.rows import ANSWER, ASSISTANT, END, Row, answer_figures, make_row, row_nats, token_losses
from llm.tokens.special import IM_END

PAIRS = [("go", "The river runs."), ("say what falls", "rain"), ("walk the path", "names, if"), ("hm", "déjà vu")]
TALK = [
    Message("system", "Be brief."),
    *(Message(role, f"{role[0]}{number} é") for number in range(3) for role in ("user", "assistant")),
]
TEXTS = {"a": "The river runs.", "b": "déjà vu", "c": "the rain falls"}
SHAPES = [{"family": family} for family in ("qwen3", "qwen2", "llama", "gpt2")]
SHAPES += [{"positions": scheme} for scheme in ("none", "sinusoidal", "learned")]


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[Row]:
    return [make_row(tokenizer, [Message("user", user), Message("assistant", text)]) for user, text in PAIRS]


@pytest.mark.parametrize("last_only", [False, True])
def test_answers_and_their_ends_are_marked(tokenizer, last_only):
    row, prompt = make_row(tokenizer, TALK, last_only), conversation_ids(tokenizer, TALK[:-1])
    answers = ["a2 é"] if last_only else ["a0 é", "a1 é", "a2 é"]
    pairs = list(zip(row.ids, row.parts, strict=True))
    assert tokenizer.decode([token for token, part in pairs if part == ANSWER]) == "".join(answers)
    assert tokenizer.decode([token for token, part in pairs if part == END]) == IM_END * len(answers)
    assert row.ids == [*prompt, *tokenizer.encode("a2 é"), tokenizer.special[IM_END]]
    assert (row.prompt_ids, row.n_bytes) == (prompt, len("".join(answers).encode()))
    if last_only:
        assert row.target(COUNTED["assistant"]) == [-100] * len(prompt) + row.ids[len(prompt) :]
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


@torch.no_grad()
@pytest.mark.parametrize("loss_on", COUNTED)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(shape.values()))
def test_packed_rows_have_the_losses_that_they_have_alone(draw_gpt, rows, plain_cpu, shape, loss_on):
    model, counted = draw_gpt(**shape, context_length=64), COUNTED[loss_on]
    packs = [[rows[0], rows[1]], [rows[2]], [rows[3], rows[1]]]
    alone = counted_nats(model, [row for pack in packs for row in pack], counted)
    torch.testing.assert_close(token_losses(model, packs, counted, 1, plain_cpu), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_figures_are_of_the_answers_alone_in_any_batches(draw_gpt, tokenizer, rows, plain_cpu, size):
    model, answers = draw_gpt(), frozenset({ANSWER})
    expected = [counted_nats(model, [row], ASSISTANT).sum().item() for row in rows]
    assert row_nats(model, rows, ASSISTANT, tokenizer.pad, size, plain_cpu) == pytest.approx(expected, abs=1e-4)
    nats = counted_nats(model, rows, answers)
    figures = answer_figures(model, rows, tokenizer.pad, size, plain_cpu, seed=1)
    n_bytes = np.array([len(text.encode()) for _, text in PAIRS])
    bits = figures["answer_bits_per_byte"]
    assert bits == pytest.approx(nats.sum().item() / math.log(2) / n_bytes.sum(), abs=1e-4)
    assert figures["answer_nats_per_token"] == pytest.approx(nats.mean().item(), abs=1e-4)
    of_rows = row_nats(model, rows, answers, tokenizer.pad, size, plain_cpu) / math.log(2) / n_bytes
    low, high = figures["answer_bits_per_byte_low"], figures["answer_bits_per_byte_high"]
    assert of_rows.min() - 1e-4 <= low < bits < high <= of_rows.max() + 1e-4


def test_the_first_bytes_are_held_out_and_no_character_is_cut(tmp_path, write_corpus):
    corpus = write_corpus(tmp_path / "corpus", {"test": TEXTS})
    table = corpus / "test.parquet"
    assert read_held_out(table) == list(TEXTS.values())
    assert read_held_out(table, 15) == ["The river runs."]
    assert read_held_out(table, 17) == ["The river runs.", "d"]  # 17 bytes end inside é
    assert read_held_out(corpus / "val.parquet") == []


def test_forgetting_is_of_all_tokens_after_the_first_marker(draw_gpt, tokenizer, plain_cpu):
    model, texts = draw_gpt(), list(TEXTS.values())
    ids = torch.tensor([token for text in texts for token in (tokenizer.end_of_text, *tokenizer.encode(text))])
    with torch.no_grad():
        nats = cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum").item()
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    figures = base_figures(model, texts, tokenizer, 4, plain_cpu, "before")
    assert figures == {"base_bits_per_byte": pytest.approx(expected, abs=1e-4)}
    assert base_figures(model, [], tokenizer, 4, plain_cpu, "before") == {}


def test_windows_and_logits_are_bounded_on_a_long_context(draw_gpt, tokenizer, plain_cpu):
    model, seen = draw_gpt(n_layers=1, context_length=8192), []
    run_blocks = model.run_blocks
    model.run_blocks = lambda x, *rest: seen.append(x.shape[:2]) or run_blocks(x, *rest)
    base_figures(model, ["the rain falls " * 1000], tokenizer, 512, plain_cpu, "before")
    assert {length for _, length in seen} == {language.MAX_POSITIONS}
    assert 1 < max(size * length * 320 for size, length in seen) <= language.MAX_LOGITS
