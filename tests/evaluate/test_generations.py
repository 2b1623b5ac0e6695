import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.generations import (
    N_PROMPTS,
    choose_prompts,
    describe_samples,
    example_of,
    generate_samples,
    read_passage,
    sample_beginnings,
    spell,
    text_nats,
)
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_words

PROMPTS = ["def ", "The "]
LINE = "Now is the winter of our discontent made glorious summer by this sun of York; and all the clouds"
DOCSTRINGS = "A module.\n\nMore.\n\n\ndef f(x, y=1)\n\nReturn it.\n\n\nclass A.B(C)\n\nOne.\n\nTwo."
LONG_SIGNATURE = f"def g({', '.join(map(str, range(40)))})\n\nLong."
BEGINNINGS = {
    "signatures and the empty line": ([DOCSTRINGS], {"def f(x, y=1)\n\n", "class A.B(C)\n\n"}),
    "only such": ([LONG_SIGNATURE], set()),
    "source code": (["import os\n\n\ndef f(x):\n    return x\n\n    # no\n\n"], {"import os\n\n\n", "def f(x):\n"}),
    "prose is cut between words": ([LINE * 2], {LINE[:80].rpartition(" ")[0]}),
    "verse": (["Two roads,\nand sorry\nI could not\ntravel"], {"Two roads,\n"}),
    "few documents give paragraphs too": (["One.\n\nTwo.\n\nThree.\n\nFour."], {"One.\n\n", "Two.\n\n"}),
    "chinese": (["今天天气很好，我们去散步。\n" * 3, "好" * 400], {"今天天气很好，我们去散步。\n", "好" * 80}),
    "front matter": (["---\ntitle: Rain\n---\n\nIt rains and it rains."], {"---\ntitle: Rain\n"}),
    "one character": (["x"], set()),
    "no words": (["---\n***\n", "\n" * 50, ""], set()),
}


@pytest.fixture(scope="module")
def model(draw_gpt):
    return draw_gpt()


@pytest.mark.parametrize(("documents", "expected"), BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_a_prompt_is_a_line_of_a_document_and_the_breaks_after_it(tokenizer, documents, expected):
    end = tokenizer.end_of_text
    stream = np.array([end, *(token for text in documents for token in (*tokenizer.encode(text), end))])
    drawn = sample_beginnings(stream, end, tokenizer, np.random.default_rng(1))
    assert (len(drawn), set(drawn)) == (len(expected), expected)


@pytest.fixture
def choose(tmp_path, write_windows_folder, tokenizer, evaluate_params):
    """Chooses prompts of documents by split."""

    def choose(seed=1, prompts=None, **splits):
        ids = {split: [tokenizer.encode(text) for text in splits.get(split, [])] for split in ("train", "val", "test")}
        folder = write_windows_folder(tmp_path / str(len([*tmp_path.iterdir()])), ids, 320, 8)
        return choose_prompts(evaluate_params(prompts=prompts), folder, tokenizer, seed)

    return choose


def test_prompts_are_beginnings_of_different_held_out_documents(choose):
    texts = [f"Слово {number} река текла, и дождь шёл над полем всю ночь до самого утра" for number in range(9)]
    splits = {"train": ["Train."], "test": [*texts, "---", "x", ""]}
    split, prompts = choose(**splits)
    assert (split, len(set(prompts))) == ("test", N_PROMPTS)
    for prompt in prompts:
        (text,) = (text for text in texts if text.startswith(prompt))
        assert 10 < len(prompt) <= len(text) // 2
        assert text[len(prompt)] in " ,"
    assert choose(**splits) == (split, prompts) != choose(seed=2, **splits)
    texts = [DOCSTRINGS.replace("f(", f"f{number}(").replace("A.", f"A{number}.") for number in range(N_PROMPTS)]
    assert {re.search(r"[fA](\d)", prompt)[1] for prompt in choose(test=texts)[1]} == set("01234")


@pytest.mark.parametrize("splits", [["test", "val", "train"], ["val", "train"], ["train"]])
def test_prompts_are_of_train_only_without_held_out_text(choose, splits):
    assert choose(**{name: [f"{name} of the river"] for name in splits})[0] == splits[0]


def test_given_prompts_are_taken_as_they_are(choose):
    assert choose(prompts=["def "], test=["The river"]) == (None, ["def "])
    assert choose() == (None, [])


@pytest.mark.parametrize(
    ("prompts", "example"),
    [
        (["\n\n  import os\nx"], "import os\n"),
        (["!", "a\0b", "- a b\n"], "a b\n"),
        ([f"{LINE}\n"], LINE[:80].rpartition(" ")[0]),
        (["-"], "1"),
    ],
)
def test_the_example_is_a_beginning_that_a_command_takes(prompts, example):
    assert example_of(prompts) == example


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


@given(text=st.text(max_size=20))
def test_pieces_join_to_the_text_and_are_visible(tokenizer, text):
    pieces = spell(tokenizer, tokenizer.encode(text))
    assert all(char.isprintable() or char in "\n\t" for piece in pieces for char in piece)
    if text.isascii() and all(char.isprintable() or char in "\n\t" for char in text):
        assert "".join(pieces) == text


def test_a_space_that_the_decoder_adds_belongs_to_the_token_after_it():
    words = Tokenizer(train_words(["one two three"], 100, 1, keep_whitespace=False))
    assert spell(words, words.encode("one  two four")) == ["one", " two", " <|unk|>"]


def test_each_text_is_scored_after_the_end_of_text_alone(draw_gpt, model, plain_cpu, evaluate_params):
    texts = [[7, 200, 31], [], [9, 9, 8, 150, 77, 4] * 5]
    for text, nats in zip(texts, text_nats(model, texts, 0, evaluate_params(), plain_cpu), strict=True):
        logits = model(torch.tensor([[0, *text]]))[0, :-1].log_softmax(dim=-1)
        by_hand = -logits[torch.arange(len(text)), torch.tensor(text, dtype=torch.long)]
        np.testing.assert_allclose(nats, by_hand.detach().numpy(), atol=1e-4)
    short = draw_gpt(context_length=17, tie_embeddings=False)  # shorter than the last text
    torch.nn.init.zeros_(short.head.weight)
    assert text_nats(short, texts, 0, evaluate_params(), plain_cpu)[2] == pytest.approx([math.log(320)] * 30, abs=1e-4)
