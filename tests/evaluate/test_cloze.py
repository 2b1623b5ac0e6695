"""Multiple-choice items of documents: what is left out, and what can be chosen."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate import cloze
from llm.evaluate.cloze import N_CHOICES, cut_left, draw_items, read_documents
from llm.evaluate.gaps import find_gaps
from llm.evaluate.multiple_choice import encode_pair
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


@pytest.fixture(scope="module")
def documents():
    return [(f"module{number}.py", write_module(number)) for number in range(12)]


def rights(task, text, path="module.py"):
    return [gap.right for gap in find_gaps(path, text)[task]]


def test_docstrings_lose_the_last_words_of_their_sentences():
    assert rights("docstring_word", MODULE) == [" path", " that", " names", " found"]


def test_brackets_are_those_of_the_code_after_a_bracket_of_another_kind():
    gaps = find_gaps("module.py", MODULE)["closing_bracket"]
    assert [MODULE[: gap.start].rsplit("\n", 1)[1].strip() for gap in gaps] == [
        "found = {path: [names[limit",
        "def short(self, path, names",
    ]
    assert [gap.right for gap in gaps] == ["]", ")"]
    assert gaps[0].wrong == (")", "}")


def test_a_bracket_hangs_on_its_opener_and_on_one_of_another_kind():
    (gap,) = find_gaps("module.py", "x = []\ny = {}\nz = (a, b)\n")["closing_bracket"]
    assert gap.reach == len("x = []\ny = ")
    assert find_gaps("module.py", "z = (a, (b))\n")["closing_bracket"] == []


def test_arguments_are_read_after_one_blank_in_functions_of_three_parameters():
    gaps = find_gaps("module.py", MODULE)["argument_name"]
    assert [gap.right for gap in gaps] == [" path", " names", " names", " names", " path"]
    assert gaps[0].wrong == (" names", " limit")
    assert {gap.reach for gap in gaps} == {MODULE.index("def walk")}


def test_inner_functions_and_what_stands_in_strings_are_no_uses():
    assert rights("argument_name", NESTED) == [" names"]


@pytest.mark.parametrize("text", ["река", "x", "'река'", "12"])
def test_prose_that_happens_to_parse_is_prose(text):
    assert find_gaps("река.txt", text).keys() == {"last_word"}


def test_every_gap_is_where_its_text_stands():
    for path, text in (("module.py", MODULE), ("nested.py", NESTED), ("notes.txt", "A river\nruns. It\n\nends here")):
        gaps = [gap for of_task in find_gaps(path, text).values() for gap in of_task]
        assert gaps
        for gap in gaps:
            assert text.startswith(gap.right, gap.start)
            assert gap.right not in gap.wrong
            assert gap.reach <= gap.start


def test_other_text_loses_the_last_words_of_sentences_and_paragraphs():
    text = 'The rain falls. He said "it does not fall!" So it may\n  \nbe over (or not). Two\n'
    assert find_gaps("poem.txt", text).keys() == {"last_word"}
    assert rights("last_word", text, "poem.txt") == [" falls", " fall", " may", " Two"]


def test_python_that_does_not_parse_is_no_prose():
    assert find_gaps("half.py", "return the path.\n") == {}


@pytest.mark.filterwarnings("error")
def test_an_escape_that_is_none_warns_nobody():
    assert rights("docstring_word", '"""A \\d digit."""\n') == [" digit"]


def draw(documents, tokenizer, n=8, seed=1, context_length=165, context_tokens=160):
    params = ClozeParams(items=n, context_tokens=context_tokens)
    return draw_items(documents, tokenizer, context_length, params, np.random.default_rng(seed))


def test_items_say_what_stands_in_their_documents(documents, tokenizer):
    by_task = draw(documents, tokenizer)
    assert {task: len(items) for task, items in by_task.items()} == {
        "docstring_word": 8,
        "closing_bracket": 8,
        "argument_name": 8,
    }
    texts = dict(documents)
    for item in (item for items in by_task.values() for item in items):
        right = item.choices[item.answer]
        assert item.context + right in texts[item.document]
        assert 2 <= len(item.choices) <= N_CHOICES
        assert len({choice.casefold() for choice in item.choices}) == len(item.choices)
        assert len(tokenizer.encode(item.context)) <= 160
        for choice in item.choices:
            assert len(tokenizer.encode(item.context + choice)) <= 165
            context, ids = encode_pair(tokenizer.encode, item.context, choice)
            assert context + ids == tokenizer.encode(item.context + choice)
            assert ids


def test_an_answer_can_be_known_from_its_context(documents, tokenizer):
    by_task = draw(documents, tokenizer, n=30)
    for item in by_task["argument_name"]:
        assert all(choice.strip() in item.context for choice in item.choices)
    for item in by_task["closing_bracket"]:
        assert sum(sign in item.context for sign in "([{") >= 2
    short = draw(documents, tokenizer, n=30, context_tokens=5)
    assert short["argument_name"] == []
    assert len(short["docstring_word"]) > 0


def test_documents_and_right_answers_take_turns(documents, tokenizer):
    by_task = draw(documents, tokenizer, n=12)
    words = Counter(item.choices[item.answer] for item in by_task["docstring_word"])
    assert max(words.values()) - min(words.values()) <= 1
    brackets = Counter(item.choices[item.answer] for item in by_task["closing_bracket"])
    assert set(brackets) <= {")", "]", "}"}
    assert len({item.document for item in by_task["argument_name"]}) == 12


def test_the_seed_decides_and_nothing_else(documents, tokenizer):
    assert draw(documents, tokenizer) == draw(documents, tokenizer) != draw(documents, tokenizer, seed=2)


def test_the_right_choice_stands_in_every_place(documents, tokenizer):
    places = Counter(item.answer for item in draw(documents, tokenizer, n=40)["docstring_word"])
    assert set(places) == set(range(N_CHOICES))


def test_the_name_of_a_special_token_is_in_no_item(tokenizer):
    text = "".join(f"The {word} is <|endoftext|> here at the {word}. " for word in WORDS)
    plain = text.replace("<|endoftext|>", "not")
    items, without = (draw([("a.txt", of)], tokenizer, n=50)["last_word"] for of in (text, plain))
    assert not any("<|endoftext|>" in item.context for item in items)
    assert len(items) < len(without) == len(WORDS)


def test_of_many_documents_a_part_is_drawn_and_of_long_ones_the_beginning(write_corpus, tmp_path, monkeypatch):
    folder = write_corpus(tmp_path, {"test": {f"{number}.txt": f"{number} " * 30 for number in range(9)}})
    monkeypatch.setattr(cloze, "MAX_DOCUMENTS", 4)
    monkeypatch.setattr(cloze, "MAX_CHARS", 10)
    first, again, other = (read_documents(folder / "test.parquet", np.random.default_rng(seed)) for seed in (1, 1, 3))
    assert [len(first), len(other)] == [4, 4]
    assert first == again != other
    assert all(len(text) == 10 and text.startswith(path[0]) for path, text in first)


@given(st.text(alphabet="ab \n", max_size=40), st.integers(-2, 45))
def test_a_cut_text_is_its_end_and_fits(text, max_tokens):
    kept = cut_left(text, max_tokens, lambda part: list(part.encode()))
    assert text.endswith(kept)
    assert len(kept) <= max(max_tokens, 0)
    if len(text) <= max_tokens:
        assert kept == text
    elif kept:
        assert text[: len(text) - len(kept)][-1] in " \n"
