import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.surprise import spell, surprises
from llm.tokens.tokenizer import LibraryTokenizer, Tokenizer
from llm.tokens.words import train_words


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer_file):
    return Tokenizer.load(small_tokenizer_file)


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("\n\t")))
def test_pieces_of_plain_text_join_to_it(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = spell(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


@given(text=st.text())
def test_no_piece_holds_what_cannot_be_seen(tokenizer, text):
    pieces = spell(tokenizer, tokenizer.encode(text))
    assert all(letter.isprintable() or letter in "\n\t" for piece in pieces for letter in piece)


def test_words_of_a_tokenizer_that_drops_whitespace_stand_apart():
    words = LibraryTokenizer(train_words(["one two three"], 100, 1, keep_whitespace=False))
    assert spell(words, words.encode("one  two four")) == ["one", " two", " <|unk|>"]


def test_an_end_of_text_reads_as_its_name(tokenizer):
    assert spell(tokenizer, [tokenizer.end_of_text]) == ["<|endoftext|>"]


TEXTS = [[7, 200, 31], [], [9, 9, 8, 150, 77, 4] * 5]  # the last is longer than the context


def test_each_text_costs_what_it_costs_after_the_end_of_text_alone(draw_gpt, plain_cpu):
    model = draw_gpt(context_length=48)
    together = surprises(model, TEXTS, 0, stride=48, batch_size=2, machine=plain_cpu)
    assert [len(nats) for nats in together] == [len(text) for text in TEXTS]
    for text, nats in zip(TEXTS, together, strict=True):
        logits = model(torch.tensor([[0, *text]]))[0, :-1].log_softmax(dim=-1)
        by_hand = -logits[torch.arange(len(text)), torch.tensor(text, dtype=torch.long)]
        np.testing.assert_allclose(nats, by_hand.detach().numpy(), atol=1e-4)


def test_a_text_longer_than_the_context_is_scored_in_full(draw_gpt, plain_cpu):
    model = draw_gpt(context_length=17, tie_embeddings=False)
    torch.nn.init.zeros_(model.head.weight)
    costs = surprises(model, TEXTS, 0, stride=11, batch_size=2, machine=plain_cpu)
    assert costs[2] == pytest.approx([math.log(320)] * 30, abs=1e-4)
