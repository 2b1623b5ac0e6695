import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate import generations
from llm.evaluate.generations import (
    argmax,
    batch_sampler,
    continue_rows,
    describe_samples,
    generate_samples,
    read_passage,
    spell,
    text_nats,
)
from llm.model.generate import generate, greedy
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_words

PROMPTS = ["def ", "The "]


def test_every_prompt_is_continued_greedily_and_by_sampling(draw_gpt, tokenizer, evaluate_params):
    model = draw_gpt()
    first, again, other = (generate_samples(model, tokenizer, PROMPTS, evaluate_params(), seed) for seed in (1, 1, 2))
    assert [(of.prompt, of.method) for of in first] == [
        (prompt, method) for prompt in PROMPTS for method in ("greedy", "temperature 0.8, top 7")
    ]
    assert all(0 < len(of.ids) <= 13 for of in first)
    assert first == again
    assert [a == b for a, b in zip(first, other, strict=True)] == [True, False, True, False]
    assert generate_samples(model, tokenizer, [], evaluate_params(), 1) == []


@pytest.mark.parametrize("passage", [None, {"split": "test", "document": "a.py", "text": "the rain"}])
def test_samples_and_a_passage_are_described_by_token(draw_gpt, tokenizer, plain_cpu, evaluate_params, passage):
    generated = generate_samples(draw_gpt(), tokenizer, PROMPTS, evaluate_params(), 1)
    samples, shown = describe_samples(draw_gpt(), tokenizer, generated, passage, evaluate_params(), plain_cpu)
    for sample, of in zip(samples, generated, strict=True):
        assert (sample["prompt"], sample["method"], sample["text"]) == (of.prompt, of.method, tokenizer.decode(of.ids))
        assert "".join(sample["tokens"][: sample["prompt_tokens"]]) == of.prompt
        assert len(sample["tokens"]) == len(sample["nats"]) == sample["prompt_tokens"] + len(of.ids)
        assert (sample["greedy"], sample["ended"]) == (of.method == "greedy", len(of.ids) < 13)
    assert ("".join(shown["tokens"]) if passage else shown) == (passage and "the rain")


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ({"a.py": "a", "b.py": "import this, or that", "c.py": "b\n"}, ("b.py", "import this, or that")),
        ({"a.py": "a", "b.py": "line\n" * 300, "c.py": "longer\n" * 300}, ("b.py", "line\n" * 160)),
    ],
)
def test_a_passage_is_of_the_first_document_that_fills_it(write_corpus, tmp_path, documents, expected):
    passage = read_passage(write_corpus(tmp_path, {"test": documents}), ["val", "test"])
    assert (passage["document"], passage["text"], passage["split"]) == (*expected, "test")
    assert read_passage(tmp_path, []) is None


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("\n\t")))
def test_pieces_of_plain_text_join_to_it(tokenizer, text):
    assert "".join(spell(tokenizer, tokenizer.encode(text))) == text


@given(text=st.text())
def test_no_piece_has_invisible_characters(tokenizer, text):
    pieces = spell(tokenizer, tokenizer.encode(text))
    assert all(char.isprintable() or char in "\n\t" for piece in pieces for char in piece)


def test_a_space_that_the_decoder_adds_belongs_to_the_token_after_it(tokenizer):
    words = Tokenizer(train_words(["one two three"], 100, 1, keep_whitespace=False))
    assert spell(words, words.encode("one  two four")) == ["one", " two", " <|unk|>"]
    assert spell(tokenizer, [tokenizer.end_of_text]) == ["<|endoftext|>"]


def test_each_text_is_scored_after_the_end_of_text_alone(draw_gpt, plain_cpu, evaluate_params):
    texts = [[7, 200, 31], [], [9, 9, 8, 150, 77, 4] * 5]
    model = draw_gpt(context_length=48)
    for text, nats in zip(texts, text_nats(model, texts, 0, evaluate_params(), plain_cpu), strict=True):
        logits = model(torch.tensor([[0, *text]]))[0, :-1].log_softmax(dim=-1)
        by_hand = -logits[torch.arange(len(text)), torch.tensor(text, dtype=torch.long)]
        np.testing.assert_allclose(nats, by_hand.detach().numpy(), atol=1e-4)
    model = draw_gpt(context_length=17, tie_embeddings=False)  # shorter than the last text
    torch.nn.init.zeros_(model.head.weight)
    assert text_nats(model, texts, 0, evaluate_params(), plain_cpu)[2] == pytest.approx([math.log(320)] * 30, abs=1e-4)


SHAPES = {"grouped": {}, "gpt2": {"family": "gpt2"}, "gru": {"family": "gru"}, "future": {"attention": "trainable"}}


@pytest.mark.parametrize("n_given", [1, 5, 11])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_rows_of_a_batch_are_continued_as_each_alone(draw_gpt, shape, n_given, monkeypatch):
    monkeypatch.setattr(generations, "MAX_ROWS", 3)
    # Some tokens past the context, where the older half of it is dropped.
    model = draw_gpt(**shape, context_length=9)
    ids = torch.randint(320, (7, n_given), generator=torch.Generator().manual_seed(1))
    expected = [list(generate(model, row, 13, greedy)) for row in ids.tolist()]
    assert continue_rows(model, ids, 13).tolist() == expected
    assert len({tuple(row) for row in expected}) > 1


def test_a_row_that_ended_stays_ended_and_the_others_go_on(draw_gpt):
    model = draw_gpt(seed=3)
    ids = torch.randint(320, (60, 5), generator=torch.Generator().manual_seed(1))
    free = continue_rows(model, ids, 12)
    stop = int(free[:, 3].mode().values)
    ended = (free == stop).cumsum(dim=1) > 0
    assert ended.any()
    assert torch.equal(continue_rows(model, ids, 12, stop=stop), free.masked_fill(ended, stop))


def test_samples_follow_the_probabilities():
    logits = torch.tensor([[0.5, 0.0, 0.2, 0.3]]).log().expand(8000, 4)
    drawn = batch_sampler(1.0, torch.Generator().manual_seed(1))(logits)
    assert drawn.shape == (8000, 1)
    assert (torch.bincount(drawn[:, 0], minlength=4) / 8000).tolist() == pytest.approx([0.5, 0.0, 0.2, 0.3], abs=0.02)
    assert (batch_sampler(0.01, torch.Generator().manual_seed(1))(logits) == argmax(logits)).all()
