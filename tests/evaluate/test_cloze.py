"""Multiple-choice items of documents: what is left out, and what can be chosen."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.evaluate import cloze
from llm.evaluate.cloze import (
    N_CHOICES,
    Item,
    chance,
    cut_left,
    encode_pair,
    grade,
    measure_items,
    read_documents,
    sample_items,
    score_items,
)
from llm.evaluate.gaps import find_gaps
from llm.evaluate.params import ClozeParams

MODULE = '''"""Reads dé a path. It knows (no more) than that!"""
# A comment ends here. And (a bracket].
text = "A string ends here. [x"


class Walker:
    """Walks: e.g. the tree
    of names."""

    def walk(self, path, names, limit=10):
        """Give the first names found."""
        é = path, names
        found = {path: [names[limit]]}
        return names if names.path else é or path

    def short(self, path, names):
        return path or names
'''
NESTED = """def outer(path, names, limit):
    def inner(path):
        return not path
    print(f"{1 + limit}", lambda names: 1 + names)
    return [limit for name in names]
"""
POEM = 'The rain falls. He said "it does not fall!" So it may\n  \nbe over (or not). Two\n'
WORDS = ["river", "mountain", "garden", "window", "letter", "copper", "silver", "branch", "shadow", "harbor"]


def write_module(number):
    """Source with all that the tasks look for; every module has other names and other words."""
    a, b, c = (f"{name}{number}" for name in ("path", "name", "limit"))
    word, other = WORDS[number % len(WORDS)], WORDS[(3 * number + 1) % len(WORDS)]
    return f'''"""It opens the {word}. Then it closes the {other}."""


def join({a}, {b}, {c}):
    """Give what is in the {word}."""
    found = {{{a}: [{b}[{c}]]}}
    return found or {a} or {b}
'''


DOCUMENTS = [(f"module{number}.py", write_module(number)) for number in range(12)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("path", "text", "task", "rights"),
    [
        ("module.py", MODULE, "docstring_word", [" path", " that", " names", " found"]),
        ("module.py", MODULE, "argument_name", [" path", " names", " names", " names", " path"]),
        ("module.py", MODULE, "closing_bracket", ["]", ")"]),
        ("nested.py", NESTED, "argument_name", [" names"]),  # none of inner functions and strings
        ("module.py", "z = (a, (b))\n", "closing_bracket", []),  # none of another kind was opened
        ("module.py", '"""A \\d digit."""\n', "docstring_word", [" digit"]),  # an invalid escape, without a warning
        ("poem.txt", POEM, "last_word", [" falls", " fall", " may", " Two"]),
        ("docs.py", "f(x)\n\nGive the path.\nIt may fall!\n\nx : int", "last_word", [" path", " fall"]),  # not code
        *((f"{text}.txt", text, "last_word", []) for text in ("река", "'река'")),  # prose that parses
    ],
)
def test_gaps_by_task(path, text, task, rights):
    found = find_gaps(path, text)
    assert [gap.right for gap in found.get(task, [])] == rights
    if path.endswith(".txt"):
        assert found.keys() == {"last_word"}
    for gap in (gap for gaps in found.values() for gap in gaps):
        assert text.startswith(gap.right, gap.start)
        assert gap.right not in gap.wrong
        assert gap.reach <= gap.start


def test_a_gap_reaches_back_to_the_evidence():
    brackets, arguments = (find_gaps("module.py", MODULE)[task] for task in ("closing_bracket", "argument_name"))
    assert MODULE[: brackets[0].start].endswith("found = {path: [names[limit")
    assert (brackets[0].wrong, arguments[0].wrong) == ((")", "}"), (" names", " limit"))
    assert {gap.reach for gap in arguments} == {MODULE.index("def walk")}
    (gap,) = find_gaps("module.py", "x = []\ny = {}\nz = (a, b)\n")["closing_bracket"]
    assert gap.reach == len("x = []\ny = ")


def draw(documents, tokenizer, n=8, seed=1, context_length=165, context_tokens=160):
    params = ClozeParams(items=n, context_tokens=context_tokens)
    return sample_items(documents, tokenizer, context_length, params, np.random.default_rng(seed))


def test_items_are_of_their_documents_and_the_answer_can_be_known(tokenizer):
    by_task = draw(DOCUMENTS, tokenizer)
    assert {task: len(items) for task, items in by_task.items()} == dict.fromkeys(
        ("docstring_word", "closing_bracket", "argument_name"), 8
    )
    for item in (item for items in by_task.values() for item in items):
        assert item.context + item.choices[item.answer] in dict(DOCUMENTS)[item.document]
        assert 2 <= len(item.choices) <= N_CHOICES
        assert len({choice.casefold() for choice in item.choices}) == len(item.choices)
        assert len(tokenizer.encode(item.context)) <= 160
        for choice in item.choices:
            context, ids = encode_pair(tokenizer.encode, item.context, choice)
            assert context + ids == tokenizer.encode(item.context + choice)
            assert 0 < len(ids) <= 165 - len(context)
    assert all(choice.strip() in item.context for item in by_task["argument_name"] for choice in item.choices)
    assert all(sum(sign in item.context for sign in "([{") >= 2 for item in by_task["closing_bracket"])
    assert draw(DOCUMENTS, tokenizer, n=30, context_tokens=5)["argument_name"] == []


def test_documents_and_right_answers_take_turns(tokenizer):
    by_task = draw(DOCUMENTS, tokenizer, n=12)
    words = Counter(item.choices[item.answer] for item in by_task["docstring_word"])
    assert max(words.values()) - min(words.values()) <= 1
    assert len({item.document for item in by_task["argument_name"]}) == 12
    answers = [item.answer for item in draw(DOCUMENTS, tokenizer, n=50)["docstring_word"]]
    assert set(answers) == set(range(N_CHOICES))
    assert by_task == draw(DOCUMENTS, tokenizer, n=12) != draw(DOCUMENTS, tokenizer, n=12, seed=2)


def test_the_name_of_a_special_token_is_in_no_item(tokenizer):
    text = "".join(f"The {word} is <|endoftext|> here at the {word}. " for word in WORDS)
    texts = (text, text.replace("<|endoftext|>", "not"))
    items, without = (draw([("a.txt", of)], tokenizer, n=50)["last_word"] for of in texts)
    assert not any("<|endoftext|>" in item.context for item in items)
    assert len(items) < len(without) == len(WORDS)


def test_many_documents_are_sampled_and_long_ones_cut(write_corpus, tmp_path, monkeypatch):
    folder = write_corpus(tmp_path, {"test": {f"{number}.txt": f"{number} " * 30 for number in range(9)}})
    monkeypatch.setattr(cloze, "MAX_DOCUMENTS", 4)
    monkeypatch.setattr(cloze, "MAX_CHARS", 10)
    first, again, other = (read_documents(folder / "test.parquet", np.random.default_rng(seed)) for seed in (1, 1, 3))
    assert first == again != other
    assert len(first) == 4
    assert all(len(text) == 10 and text.startswith(path[0]) for path, text in first)


@given(st.text(alphabet="ab \n", max_size=40), st.integers(-2, 45))
def test_a_cut_text_is_its_end_and_fits(text, max_tokens):
    kept = cut_left(text, max_tokens, lambda part: list(part.encode()))
    assert text.endswith(kept)
    assert len(kept) <= max(max_tokens, 0)
    assert kept == text if len(text) <= max_tokens else not kept or text[: len(text) - len(kept)][-1] in " \n"


@torch.no_grad()
@pytest.mark.parametrize("shape", [{}, {"family": "gru"}], ids=str)
def test_a_choice_scores_the_sum_of_its_log_probabilities(draw_gpt, tokenizer, shape):
    model = draw_gpt(context_length=64, **shape)
    items = [Item("a", "The river", [" runs", " falls and falls", ")"], 0), Item("c", "x", [" yz", "+"], 1)]
    for item, scores in zip(items, score_items(model, tokenizer.encode, items), strict=True):
        for choice, score in zip(item.choices, scores, strict=True):
            ids, n = tokenizer.encode(item.context + choice), len(tokenizer.encode(item.context))
            logs = model(torch.tensor([ids]))[0].log_softmax(dim=-1)
            assert score == pytest.approx(sum(logs[at - 1, ids[at]].item() for at in range(n, len(ids))), abs=1e-4)


def test_an_item_for_a_longer_context_is_refused(draw_gpt, tokenizer):
    with pytest.raises(UserError, match=r"context of 48 tokens, got \d+ \+ 1 tokens in long\.txt"):
        score_items(draw_gpt(), tokenizer.encode, [Item("long.txt", "xyz " * 30 + "x", [")", "]"], 0)])


@pytest.mark.parametrize(
    ("choices", "answer", "scores", "grades"),
    [
        (["éé", "x"], 0, [-3.0, -1.8], (False, True)),  # by characters, not by bytes
        (["x", "y"], 0, [-1.0, -1.0], (True, True)),  # ties go to the first
        (["x", "y"], 1, [-1.0, -1.0], (False, False)),
    ],
)
def test_the_second_accuracy_is_by_characters(choices, answer, scores, grades):
    assert grade(Item("", "a", choices, answer), np.array(scores)) == grades


def test_chance_is_a_random_choice_or_the_most_frequent_answer():
    assert chance([Item("", "a", [")", "]"], answer) for answer in (0, 0, 0, 1)]) == 0.75
    assert chance([Item("", "a", [word, "x", "y", "z"], 0) for word in "abcdefgh"]) == 0.25


def test_accuracies_have_intervals_over_documents():
    items = [Item(document, "a", ["x", "y"], 0) for document in "aabbcd"]
    scores = [np.array([0.0, -1.0])] * 4 + [np.array([-1.0, 0.0])] * 2
    found = measure_items(items, scores, np.random.default_rng(1))
    assert (found["items"], found["documents"]) == (6, 4)
    assert found["accuracy"] == found["accuracy_norm"] == round(4 / 6, 5)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"] == 1.0
