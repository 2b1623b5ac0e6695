import re

import numpy as np
import pytest
import torch

from llm.evaluate import samples
from llm.evaluate.params import EvaluateParams, QualityParams
from llm.evaluate.samples import (
    N_PROMPTS,
    continue_rows,
    default_prompts,
    draw_beginnings,
    draw_samples,
    example_of,
    samples_table,
    with_prompts,
    write_samples,
)
from llm.model.generate import generate, greedy
from llm.tokens.tokenizer import Tokenizer

QUALITY = QualityParams(texts=7, prompt_tokens=5, new_tokens=9, temperature=0.7)
PARAMS = EvaluateParams(
    stride=8, batch_size=2, prompts=["def ", "The "], sample_tokens=13, temperature=0.75, top_k=50, quality=QUALITY
)


@pytest.fixture
def tokenizer(small_tokenizer_file):
    return Tokenizer.load(small_tokenizer_file)


def _write(model, tokenizer, params, seed):
    return write_samples(draw_samples(model, tokenizer, params, seed), tokenizer, params.sample_tokens)


def _parts(text):
    """Heading and body of each sample."""
    return [part.split("\n", 1) for part in text.split("\n## ")[1:]]


def test_every_prompt_is_continued_greedily_and_by_drawing(draw_gpt, tokenizer):
    parts = _parts(_write(draw_gpt(), tokenizer, PARAMS, seed=1))
    assert [heading for heading, _ in parts] == [
        "`def`, greedy",
        "`def`, temperature 0.75, top 50",
        "`The`, greedy",
        "`The`, temperature 0.75, top 50",
    ]
    for (_, body), prompt in zip(parts, ("def ", "def ", "The ", "The "), strict=True):
        assert f"\n{prompt}│" in body


def test_the_same_seed_gives_the_same_text_and_another_seed_other_drawn_ones_alone(draw_gpt, tokenizer):
    first, again, other = (_parts(_write(draw_gpt(), tokenizer, PARAMS, seed)) for seed in (1, 1, 2))
    assert first == again
    assert [a == b for a, b in zip(first, other, strict=True)] == [True, False, True, False]


def test_a_model_that_says_the_end_at_once_writes_nothing(draw_gpt, tokenizer):
    model = draw_gpt(tie_embeddings=False)
    with torch.no_grad():
        # The last hidden state's first number becomes 1, and only the end of text looks at it.
        model.norm.weight.zero_()
        model.norm.weight[0] = 1
        model.head.weight.zero_()
        model.embedding.weight[:, 0] = 50
        model.head.weight[tokenizer.end_of_text, 0] = 50
    for _, body in _parts(_write(model, tokenizer, PARAMS, seed=1)):
        assert body.rstrip().endswith("│\n````")


def test_without_prompts_there_is_a_heading_alone(draw_gpt, tokenizer):
    params = PARAMS.model_copy(update={"prompts": []})
    assert _write(draw_gpt(), tokenizer, params, seed=1).startswith("# Samples\n")
    assert _parts(_write(draw_gpt(), tokenizer, params, seed=1)) == []


def test_a_prompt_of_any_text_has_a_heading_of_one_line_and_a_fence_that_holds(draw_gpt, tokenizer):
    params = PARAMS.model_copy(update={"prompts": ["a\n```\n# `b`"]})
    (heading, body), _ = _parts(_write(draw_gpt(), tokenizer, params, seed=1))
    assert heading == "```` a ``` # `b` ````, greedy"
    assert body.startswith("\n````text\na\n```\n# `b`│")


@pytest.fixture
def windows(tmp_path, write_windows_folder, tokenizer):
    """Writes a folder of windows of documents by split."""

    def write(**splits):
        ids = {split: [tokenizer.encode(text) for text in texts] for split, texts in splits.items()}
        return write_windows_folder(
            tmp_path / f"windows of {len(list(tmp_path.iterdir()))}", {"train": [], "val": [], "test": []} | ids, 320, 8
        )

    return write


def test_prompts_are_beginnings_of_documents_that_were_held_out(windows, tokenizer):
    texts = [f"Слово {number} река текла, и дождь шёл над полем всю ночь до самого утра" for number in range(9)]
    folder = windows(train=["Train."], test=[*texts, "---", "x", ""])
    params = with_prompts(PARAMS.model_copy(update={"prompts": None}), folder, tokenizer, seed=1)
    assert len(set(params.prompts)) == N_PROMPTS
    for prompt in params.prompts:
        (text,) = (text for text in texts if text.startswith(prompt))
        assert 10 < len(prompt) <= len(text) // 2
        assert text[len(prompt)] in " ,"
    assert example_of(params) == params.prompts[0]
    assert default_prompts(folder, tokenizer, seed=1) == ("test", params.prompts)
    again, other = (
        with_prompts(PARAMS.model_copy(update={"prompts": None}), folder, tokenizer, seed) for seed in (1, 2)
    )
    assert again == params != other


LINE = "Now is the winter of our discontent made glorious summer by this sun of York; and all the clouds"
DOCSTRINGS = "A module.\n\nMore.\n\n\ndef f(x, y=1)\n\nReturn it.\n\n\nclass A.B(C)\n\nOne.\n\nTwo."
LONG_SIGNATURE = f"def g({', '.join(map(str, range(40)))})\n\nLong."
BEGINNINGS = {
    "documentation: signatures and the empty line": ([DOCSTRINGS], {"def f(x, y=1)\n\n", "class A.B(C)\n\n"}),
    "a signature that is too long": (
        [f"{DOCSTRINGS}\n\n\n{LONG_SIGNATURE}"],
        {"def f(x, y=1)\n\n", "class A.B(C)\n\n"},
    ),
    "only such": ([LONG_SIGNATURE], set()),
    "source code": (["import os\n\n\ndef f(x):\n    return x\n\n    # no\n\n"], {"import os\n\n\n", "def f(x):\n"}),
    "prose is cut between words": ([LINE * 2], {LINE[:80].rpartition(" ")[0]}),
    "verse": (["Two roads,\nand sorry\nI could not\ntravel"], {"Two roads,\n"}),
    "few documents give paragraphs too": (["One.\n\nTwo.\n\nThree.\n\nFour."], {"One.\n\n", "Two.\n\n"}),
    "chinese": (["今天天气很好，我们去散步。\n" * 3, "好" * 400], {"今天天气很好，我们去散步。\n", "好" * 80}),
    "rows": (["id,text,label\n1,a,b\n2,c,d\n3,e,f\n"], {"id,text,label\n"}),
    "front matter": (["---\ntitle: Rain\n---\n\nIt rains and it rains."], {"---\ntitle: Rain\n"}),
    "one character": (["x"], set()),
    "no words": (["---\n***\n", "\n" * 50, ""], set()),
    "nothing": ([], set()),
}


@pytest.mark.parametrize(("documents", "expected"), BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_a_prompt_is_a_line_of_a_document_and_the_breaks_after_it(tokenizer, documents, expected):
    end = tokenizer.end_of_text
    stream = np.array([end, *(token for text in documents for token in (*tokenizer.encode(text), end))])
    drawn = draw_beginnings(stream if documents else stream[:0], end, tokenizer, np.random.default_rng(1))
    assert (len(drawn), set(drawn)) == (len(expected), expected)


def test_prompts_are_of_as_many_documents_as_there_are(windows, tokenizer):
    texts = [DOCSTRINGS.replace("f(", f"f{number}(").replace("A.", f"A{number}.") for number in range(N_PROMPTS)]
    _, prompts = default_prompts(windows(test=texts), tokenizer, seed=1)
    assert {re.search(r"[fA](\d)", prompt)[1] for prompt in prompts} == set("01234")
    _, others = default_prompts(windows(test=texts), tokenizer, seed=2)
    assert set(prompts) != set(others)


@pytest.mark.parametrize(("split", "given"), [("test", {}), ("val", {"test": []}), ("train", {"test": [], "val": []})])
def test_prompts_are_of_train_only_where_nothing_was_held_out(windows, tokenizer, split, given):
    texts = {name: [f"{name} of the river"] for name in ("train", "val", "test")} | given
    params = with_prompts(PARAMS.model_copy(update={"prompts": None}), windows(**texts), tokenizer, seed=1)
    assert [prompt.split()[0] for prompt in params.prompts] == [split]


def test_documents_that_begin_alike_give_one_prompt_and_none_gives_none(windows, tokenizer):
    params = PARAMS.model_copy(update={"prompts": None})
    folder = windows(test=["# The same line of all of them, and then"] * 7)
    assert len(with_prompts(params, folder, tokenizer, seed=1).prompts) == 1
    assert with_prompts(params, windows(), tokenizer, seed=1).prompts == []


def test_given_prompts_are_taken_as_they_are(tmp_path, tokenizer):
    assert with_prompts(PARAMS, tmp_path, tokenizer, seed=1) is PARAMS


@pytest.mark.parametrize(
    ("prompts", "example"),
    [
        (["\n\n  import os\nx"], "import os\n"),
        (["def f(x)\n\n"], "def f(x)\n\n"),
        (["!", "a\0b", "- a b\n"], "a b\n"),
        ([f"{LINE}\n"], LINE[:80].rpartition(" ")[0]),
        (["-"], "1"),
        ([], "1"),
    ],
)
def test_the_example_is_a_beginning_that_a_command_takes(prompts, example):
    assert example_of(PARAMS.model_copy(update={"prompts": prompts})) == example


def test_what_is_written_down_is_what_was_drawn(draw_gpt, tokenizer):
    drawn = draw_samples(draw_gpt(), tokenizer, PARAMS, seed=1)
    written = _parts(_write(draw_gpt(), tokenizer, PARAMS, seed=1))
    assert len(drawn) == len(written)
    for sample, (_, body) in zip(drawn, written, strict=True):
        assert 0 < len(sample.ids) <= 13
        assert f"{sample.prompt}│{tokenizer.decode(sample.ids)}\n````" in body
    table = samples_table(drawn, tokenizer, n_tokens=13)
    assert [(of["prompt"], of["text"], of["way"]) for of in table] == [
        (sample.prompt, tokenizer.decode(sample.ids), sample.way) for sample in drawn
    ]
    assert [of["greedy"] for of in table] == [True, False] * 2
    assert [of["ended"] for of in table] == [len(sample.ids) < 13 for sample in drawn]


SHAPES = {
    "grouped": {},
    "gpt2": {"family": "gpt2"},
    "gru": {"family": "gru"},
    "sees the future": {"attention": "trainable"},
}


@pytest.mark.parametrize("n_given", [1, 5, 11])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_rows_go_on_together_as_each_goes_on_alone(draw_gpt, shape, n_given, monkeypatch):
    monkeypatch.setattr(samples, "ROWS", 3)
    # Some tokens past the context, where the older half of it is forgotten.
    model = draw_gpt(**shape, context_length=9)
    ids = torch.randint(320, (7, n_given), generator=torch.Generator().manual_seed(1))
    expected = [list(generate(model, row, 13, greedy)) for row in ids.tolist()]
    assert continue_rows(model, ids, 13).tolist() == expected
    assert len({tuple(row) for row in expected}) > 1
