import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.generations import describe_samples, generate_samples, read_passage, spell, text_nats
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_words

PROMPTS = ["def ", "The "]


@pytest.fixture(scope="module")
def model(draw_gpt):
    return draw_gpt()


def test_every_prompt_is_continued_greedily_and_by_sampling(model, tokenizer, evaluate_params):
    first, again, other = (generate_samples(model, tokenizer, PROMPTS, evaluate_params(), seed) for seed in (1, 1, 2))
    assert [(of.prompt, of.method) for of in first] == [
        (prompt, method) for prompt in PROMPTS for method in ("greedy", "temperature 0.8, top 7")
    ]
    assert all(0 < len(of.ids) <= 13 for of in first)
    assert first == again
    assert [a == b for a, b in zip(first, other, strict=True)] == [True, False, True, False]


@pytest.mark.parametrize("passage", [None, {"split": "test", "document": "a.py", "text": "the rain"}])
def test_samples_and_a_passage_are_described_by_token(model, tokenizer, plain_cpu, evaluate_params, passage):
    generated = generate_samples(model, tokenizer, PROMPTS, evaluate_params(), 1)
    samples, shown = describe_samples(model, tokenizer, generated, passage, evaluate_params(), plain_cpu)
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


@given(text=st.text(max_size=20))
def test_pieces_join_to_the_text_and_are_visible(tokenizer, text):
    pieces = spell(tokenizer, tokenizer.encode(text))
    assert all(char.isprintable() or char in "\n\t" for piece in pieces for char in piece)
    if text.isascii() and all(char.isprintable() or char in "\n\t" for char in text):
        assert "".join(pieces) == text


def test_a_space_that_the_decoder_adds_belongs_to_the_token_after_it(tokenizer):
    words = Tokenizer(train_words(["one two three"], 100, 1, keep_whitespace=False))
    assert spell(words, words.encode("one  two four")) == ["one", " two", " <|unk|>"]
    assert spell(tokenizer, [tokenizer.end_of_text]) == ["<|endoftext|>"]


def test_each_text_is_scored_after_the_end_of_text_alone(draw_gpt, model, plain_cpu, evaluate_params):
    texts = [[7, 200, 31], [], [9, 9, 8, 150, 77, 4] * 5]
    for text, nats in zip(texts, text_nats(model, texts, 0, evaluate_params(), plain_cpu), strict=True):
        logits = model(torch.tensor([[0, *text]]))[0, :-1].log_softmax(dim=-1)
        by_hand = -logits[torch.arange(len(text)), torch.tensor(text, dtype=torch.long)]
        np.testing.assert_allclose(nats, by_hand.detach().numpy(), atol=1e-4)
    short = draw_gpt(context_length=17, tie_embeddings=False)  # shorter than the last text
    torch.nn.init.zeros_(short.head.weight)
    assert text_nats(short, texts, 0, evaluate_params(), plain_cpu)[2] == pytest.approx([math.log(320)] * 30, abs=1e-4)
