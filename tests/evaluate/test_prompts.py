import re

import numpy as np
import pytest

from llm.evaluate.prompts import N_PROMPTS, choose_prompts, example_of, sample_beginnings

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
    "nothing": ([], set()),
}


@pytest.mark.parametrize(("documents", "expected"), BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_a_prompt_is_a_line_of_a_document_and_the_breaks_after_it(tokenizer, documents, expected):
    end = tokenizer.end_of_text
    stream = np.array([end, *(token for text in documents for token in (*tokenizer.encode(text), end))])
    drawn = sample_beginnings(stream if documents else stream[:0], end, tokenizer, np.random.default_rng(1))
    assert (len(drawn), set(drawn)) == (len(expected), expected)


@pytest.fixture
def choose(tmp_path, write_windows_folder, tokenizer, evaluate_params):
    """Chooses prompts of documents by split."""

    def choose(seed=1, prompts=None, **splits):
        ids = {split: [tokenizer.encode(text) for text in splits.get(split, [])] for split in ("train", "val", "test")}
        folder = write_windows_folder(tmp_path / str(len([*tmp_path.iterdir()])), ids, 320, 8)
        return choose_prompts(evaluate_params(prompts=prompts), folder, tokenizer, seed)

    return choose


def test_prompts_are_beginnings_of_held_out_documents(choose):
    texts = [f"Слово {number} река текла, и дождь шёл над полем всю ночь до самого утра" for number in range(9)]
    splits = {"train": ["Train."], "test": [*texts, "---", "x", ""]}
    split, prompts = choose(**splits)
    assert (split, len(set(prompts))) == ("test", N_PROMPTS)
    for prompt in prompts:
        (text,) = (text for text in texts if text.startswith(prompt))
        assert 10 < len(prompt) <= len(text) // 2
        assert text[len(prompt)] in " ,"
    assert choose(**splits) == (split, prompts) != choose(seed=2, **splits)


def test_prompts_are_of_as_many_documents_as_there_are(choose):
    texts = [DOCSTRINGS.replace("f(", f"f{number}(").replace("A.", f"A{number}.") for number in range(N_PROMPTS)]
    _, prompts = choose(test=texts)
    assert {re.search(r"[fA](\d)", prompt)[1] for prompt in prompts} == set("01234")
    assert len(choose(test=["# The same line of all of them, and then"] * 7)[1]) == 1


@pytest.mark.parametrize(("split", "empty"), [("test", []), ("val", ["test"]), ("train", ["test", "val"])])
def test_prompts_are_of_train_only_without_held_out_text(choose, split, empty):
    texts = {name: [f"{name} of the river"] for name in ("train", "val", "test") if name not in empty}
    assert choose(**texts)[0] == split
    assert choose(**texts)[1][0].split()[0] == split


def test_given_prompts_are_taken_as_they_are(choose):
    assert choose(prompts=["def "], test=["The river"]) == (None, ["def "])
    assert choose() == (None, [])


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
    assert example_of(prompts) == example
