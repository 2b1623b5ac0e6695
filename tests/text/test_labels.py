"""Python documents in, labeled rows out: no row gives its answer away, and none is in two splits."""

import ast
import re
from collections import Counter

import pytest

from llm.text.labels import DOCSTRING, LIBRARY, Function, docstring_rows, find_functions, library_rows, mask_names

MODULE = '''\
import json


@decorated(
    "twice"
)
def outer(x):
    """Say what outer does.

    More of it.
    """

    def inner(y):
        return y

    return inner(x)


class Thing:
    async def method(self):
        """Wait."""
        return "é"

    def one_line(self): """Nothing."""; return 1

    def only_words(self):
        """Nothing follows."""
'''


def function(path: str = "json/decoder.py", split: str = "train", source: str = "", docstring: str | None = None):
    source = source or f"def f():\n    return {path!r}\n"
    return Function(path, split, source, source, docstring)


def library(functions: list[Function], **limits: int) -> tuple[list[dict], Counter[str]]:
    dropped = Counter[str]()
    limits = {"n_packages": 9, "max_rows_per_package": 99, "max_rows_per_document": 99} | limits
    return library_rows(functions, **limits, dropped=dropped), dropped


def test_every_function_with_a_body_is_found_also_inside_others() -> None:
    names = {ast.parse(found.source).body[0].name for found in find_functions("a.py", "val", MODULE)}
    assert names == {"outer", "inner", "method"}


def test_a_function_comes_dedented_with_its_decorators_and_without_its_docstring() -> None:
    found = {ast.parse(f.source).body[0].name: f for f in find_functions("pkg/a.py", "val", MODULE)}
    outer, method = found["outer"], found["method"]
    assert outer.source.startswith('@decorated(\n    "twice"\n)\ndef outer(x):\n    """Say')
    assert outer.docstring == "Say what outer does.\n\nMore of it."
    assert outer.bare_source.startswith('@decorated(\n    "twice"\n)\ndef outer(x):\n\n    def inner(y):')
    assert method.source == 'async def method(self):\n    """Wait."""\n    return "é"\n'
    assert method.bare_source == 'async def method(self):\n    return "é"\n'
    assert (outer.path, outer.split, outer.package) == ("pkg/a.py", "val", "pkg")


def test_what_is_left_without_a_docstring_is_the_same_function_for_the_parser() -> None:
    for found in find_functions("a.py", "train", MODULE):
        (with_it,), (without,) = ast.parse(found.source).body, ast.parse(found.bare_source).body
        if found.docstring:
            with_it.body = with_it.body[1:]
        assert ast.dump(with_it) == ast.dump(without)


@pytest.mark.parametrize("mark", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_a_character_that_ends_no_line_for_python_shifts_no_function(mark: str) -> None:
    text = f'note = """{mark}{mark}"""\n# {mark}\n{MODULE}'
    assert [f.source for f in find_functions("a.py", "train", text)] == [
        f.source for f in find_functions("a.py", "train", MODULE)
    ]


def test_the_package_of_a_lone_module_is_its_name() -> None:
    assert function("zipfile.py").package == "zipfile"
    assert function("json/decoder.py").package == "json"


# The last five are legal, and nested deeper than the parser goes: RecursionError and MemoryError.
UNPARSED = ["def f(:\n", "print 'old'\n", "x = '\0'\n", "no python at all", "(" * 300 + ")" * 300]
UNPARSED += [
    f"x = 1{' + 1' * 20_000}\n",
    f"f{'()' * 20_000}",
    f"a{'.b' * 20_000}",
    f"{'-' * 100_000}1",
    "1" + "**1" * 9999,
]


@pytest.mark.parametrize("text", UNPARSED, ids=lambda text: text[:12])
def test_a_module_that_the_parser_gives_up_on_is_none(text: str) -> None:
    assert find_functions("a.py", "train", text) is None
    assert find_functions("a.py", "train", "x = 1\n") == []


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("json.loads", "MASKED.loads"),
        ("JSON and Json", "MASKED and MASKED"),
        ("_json, json_, x_json_y, json2", "_MASKED, MASKED_, x_MASKED_y, MASKED2"),
        ("jsonify and myjson", "jsonify and myjson"),
        ("json.json", "MASKED.MASKED"),
        ("xml.etree", "MASKED.MASKED"),
        ("re.compile, return", "MASKED.compile, return"),
        ("a.b", "a.b"),
    ],
)
def test_names_are_masked_where_they_stand_between_non_letters(text: str, masked: str) -> None:
    assert mask_names(text, ["json", "xml", "etree", "re", "a|b", "a.c"]) == masked


def test_without_names_nothing_is_masked() -> None:
    assert mask_names("json", []) == "json"


def test_rows_name_neither_their_package_nor_any_module_of_a_class() -> None:
    functions = [
        function("json/decoder.py", source="def f():\n    import json.decoder, Json_x\n    return 1\n"),
        function("email/parser.py", source="def f():\n    return email.parser, decoder\n"),
        function("email/mime/__init__.py", "test", source="def f():\n    return json(mime)\n"),
        function("json/encoder.py", "test", source="def f():\n    return parser.json\n"),
    ]
    rows, _ = library(functions)
    assert len(rows) == 4
    for row in rows:
        assert not re.search(r"(?i)(?<![a-z])(json|email|decoder|parser|mime)(?![a-z])", row["text"])
    assert Counter(row["label"] for row in rows) == {"json": 2, "email": 2}


def test_a_row_keeps_the_split_and_the_path_of_its_document() -> None:
    functions = [
        function(path, split, f"def f():\n    return {n}\n")
        for n, (path, split) in enumerate([("json/a.py", "train"), ("json/b.py", "val"), ("json/c.py", "test")])
    ]
    splits = {f.path: f.split for f in functions}
    rows, _ = library(functions)
    assert {row["path"]: row["split"] for row in rows} == splits
    rows = docstring_rows([Function(f.path, f.split, f.source, f.source, "Say.") for f in functions], Counter())
    assert {row["path"]: row["split"] for row in rows} == splits


def test_a_text_that_is_the_same_once_it_is_masked_is_dropped_everywhere() -> None:
    functions = [
        function("json/a.py", "train", "def f():\n    return json\n"),
        function("json/a.py", "test", "def h():\n    return json\n"),
        function("xml/b.py", "val", "def f():\n    return xml\n"),
        function("xml/b.py", "train", "def g():\n    return xml\n"),
        function("xml/c.py", "test", "def i():\n    return xml\n"),
    ]
    rows, dropped = library(functions)
    assert {row["text"] for row in rows} == {f"def {name}():\n    return MASKED\n" for name in "ghi"}
    assert dropped["library_same_text_twice"] == 2


def test_the_most_populous_packages_are_the_classes() -> None:
    sizes = {"two": 2, "three": 3, "four": 4, "same": 3}
    functions = [
        function(f"{name}/m.py", ("train", "test")[n % 2], f"def f():\n    return {n}, '{name}s'\n")
        for name, size in sizes.items()
        for n in range(size)
    ]
    rows, _ = library(functions, n_packages=2)
    assert {row["label"] for row in rows} == {"four", "same"}


def test_a_package_that_train_or_test_lacks_is_no_class() -> None:
    splits = {
        "both": ("train", "test"),
        "learned": ("train", "train"),
        "asked": ("test", "test", "val"),
        "no": ("val",),
    }
    functions = [
        function(f"{name}/m.py", split, f"def f():\n    return {n}, '{name}s'\n")
        for name, of in splits.items()
        for n, split in enumerate(of)
    ]
    assert {row["label"] for row in library(functions)[0]} == {"both"}


def test_no_document_and_no_package_has_more_rows_than_its_most() -> None:
    functions = [
        function(f"{package}/{module}.py", split, f"def f():\n    return '{package}s', '{module}s', {n}\n")
        for package in ("json", "xml")
        for module, split in (("p", "train"), ("q", "test"), ("r", "val"))
        for n in range(5)
    ]
    rows, dropped = library(functions, max_rows_per_document=3, max_rows_per_package=7)
    assert max(Counter(row["path"] for row in rows).values()) == 3
    assert Counter(row["label"] for row in rows) == {"json": 7, "xml": 7}
    assert len(rows) + sum(dropped.values()) == len(functions)


def test_which_rows_are_kept_does_not_depend_on_the_order_of_the_functions() -> None:
    functions = [
        function(f"{package}/{split}.py", split, f"def {name}():\n    return {n}\n")
        for package, split, name in (
            ("json", "train", "f"),
            ("json", "test", "g"),
            ("xml", "train", "h"),
            ("xml", "test", "i"),
        )
        for n in range(20)
    ]
    limits = {"max_rows_per_package": 10, "max_rows_per_document": 8}
    assert len(library(functions, **limits)[0]) == 20
    assert library(functions, **limits)[0] == library(functions[::-1], **limits)[0]


def test_the_answer_is_the_first_paragraph_on_one_line() -> None:
    docstring = "Return the\n    nearest one.\n\nNot this."
    (row,) = docstring_rows([function(docstring=docstring)], Counter())
    assert row["output"] == "Return the nearest one."
    assert row["input"] == function().bare_source


def test_functions_without_a_docstring_and_repeated_ones_are_dropped_and_counted() -> None:
    dropped = Counter[str]()
    functions = [function(), function(docstring=""), function(docstring="\n\nLate."), function(docstring="Say.")]
    rows = docstring_rows([*functions, function(split="val", docstring="Say again.")], dropped)
    assert [row["output"] for row in rows] == ["Say."]
    assert dropped == {"docstring_none": 3, "docstring_same_text_twice": 1}


def test_rows_have_the_columns_of_their_tables() -> None:
    functions = [function(docstring="Say."), function(split="test", source="def g():\n    return 2\n")]
    assert [list(row) for row in library(functions)[0]] == [LIBRARY.names] * 2
    assert [list(row) for row in docstring_rows(functions, Counter())] == [DOCSTRING.names]
