"""Documentation in, labeled rows out: no row contains its answer, and none is in two splits."""

from collections import Counter
from typing import Any

import pytest

from llm.corpus.labels import (
    INSTRUCTION,
    MIN_IMPORTS,
    Documented,
    docstring_rows,
    find_documented,
    library_rows,
    mask_names,
)
from llm.corpus.params import LabelParams

SPLITS = ("train", "val", "test")


def documented(path: str = "numpy/a.py", split: str = "train", docstring: str = "", signature: str = "") -> Documented:
    docstring = docstring or f"Describe {path} of {split}."
    return Documented(path, split, signature or f"def f_{abs(hash((path, docstring)))}()", docstring)


def library(found: list[Documented], **changes: int) -> tuple[list[dict[str, Any]], Counter[str]]:
    dropped = Counter[str]()
    limits = {"n_packages": 9, "max_train_rows_per_package": 99, "max_rows_per_document": 99}
    limits |= {"min_chars": 1, "max_chars": 200, "max_answer_chars": 99} | changes
    return library_rows(found, LabelParams(**limits), dropped), dropped


def numbered(path: str, split: str, n: int) -> list[Documented]:
    return [documented(path, split, f"Text {number} of {path[::-1]}.") for number in range(n)]  # no name is masked


# The last ones are legal Python, and nested deeper than the parser goes: RecursionError and MemoryError.
WITHOUT = ["x = 1\n", "Some prose.\n", "def f(:\n", "x = '\0'\n", f"x = 1{' + 1' * 20_000}\n", f"{'-' * 100_000}1"]


@pytest.mark.parametrize("text", WITHOUT, ids=lambda text: text[:12])
def test_a_text_without_docstrings_has_no_entries(text: str) -> None:
    assert find_documented("a.py", "train", text) == []


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("import numpy as np", "import MASKED as MASKED"),
        ("np.ones(3)", "MASKED(3)"),
        ("`scipy.stats.norm.pdf`", "`MASKED`"),
        ("_numpy, x_np_y, numpy2", "_MASKED, x_MASKED_y, MASKED2"),
        ("numpydoc and inputnp", "numpydoc and inputnp"),
        ("a.b", "a.b"),
    ],
)
def test_names_are_masked_with_their_dotted_path(text: str, masked: str) -> None:
    assert mask_names(text, ["numpy", "np", "scipy", "a|b", "a.c"]) == masked
    assert mask_names(text, []) == text


def test_common_aliases_are_masked() -> None:
    often = [">>> import numpy as np", ">>> import scipy.special as sc", ">>> import os as system"] * MIN_IMPORTS
    found = [
        documented(f"{name}/a.py", split, f"{often[0]}\n>>> np.ones({name == 'numpy'}, '{split}')")
        for name in ("numpy", "scipy")
        for split in ("train", "test")
    ] * MIN_IMPORTS
    assert not any("np." in row["text"] for row in library([*set(found), *found])[0])


def test_a_text_that_occurs_twice_when_masked_is_dropped() -> None:
    names = ("numpy", "scipy")
    found = [documented("numpy/a.py", "train", "Use numpy."), documented("scipy/a.py", "test", "Use scipy.")]
    found += [documented(f"{name}/b.py", split, f"{name} {split}") for name in names for split in ("train", "test")]
    rows, dropped = library([*found, documented("scipy/c.py", "test", "Only here.")])
    assert [row["text"] for row in rows] == ["Only here."]
    assert dropped["library_same_text_twice"] == 6


@pytest.mark.parametrize(
    ("changes", "labels"),
    [({}, {"big", "mid", "tie"}), ({"n_packages": 2}, {"big", "mid"}), ({"min_chars": 300}, set())],
)
def test_classes_are_the_largest_packages_in_train_and_test(changes: dict, labels: set[str]) -> None:
    sizes = {"big": 4, "mid": 3, "tie": 3}.items()
    found = [
        one for name, n in sizes for split in ("train", "test") for one in numbered(f"{name}/{split}.py", split, n)
    ]
    found += numbered("learned/a.py", "train", 9) + numbered("asked/a.py", "test", 9) + numbered("no/a.py", "val", 9)
    assert {row["label"] for row in library(found, **changes)[0]} == labels


def test_limits_count_what_they_drop() -> None:
    modules = {"a": "train", "b": "train", "c": "test", "d": "val"}.items()
    packages = ("numpy", "scipy")
    found = [one for of in packages for name, split in modules for one in numbered(f"{of}/{name}.py", split, 5)]
    rows, dropped = library(found, max_rows_per_document=3, max_train_rows_per_package=4)
    assert max(Counter(row["path"] for row in rows).values()) == 3
    assert Counter((row["label"], row["split"]) for row in rows) == {
        (package, split): n for package in packages for split, n in (("train", 4), ("test", 3), ("val", 3))
    }
    assert len(rows) + sum(dropped.values()) == len(found)
    assert library(found[::-1], max_rows_per_document=3, max_train_rows_per_package=4)[0] == rows


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("One line\nanother line", "One line\nanother line"),
        ("One line\nanother line that is long", "One line"),
        ("A first line that is long", "A first line that is"),
    ],
)
def test_a_long_docstring_is_cut_at_the_end_of_a_line(docstring: str, text: str) -> None:
    found = [documented("numpy/a.py", "train", docstring), documented("numpy/b.py", "test", "Other.")]
    assert text in {row["text"] for row in library(found, max_chars=len("One line\nanother line"))[0]}


@pytest.mark.parametrize(
    ("docstring", "answer"),
    [
        ("Say it.\n\nA: int\n    Of it.", "Say it.\n\nA: int\n    Of it."),
        ("Say\nit all.\n\n" + "Long. " * 20, "Say it all."),
        ("Long. " * 20, None),
    ],
)
def test_an_answer_is_a_docstring_or_its_summary(docstring: str, answer: str | None) -> None:
    dropped = Counter[str]()
    found = [documented(docstring=docstring, signature="def f()")]
    rows = docstring_rows([*found, documented(split="test", docstring="Other.", signature="def f()")], 40, dropped)
    assert rows[0] == {"instruction": INSTRUCTION, "input": "def f()", "output": answer or "Other."} | {
        "split": "train" if answer else "test",
        "path": "numpy/a.py",
    }
    assert dropped == ({"docstring_same_signature_twice": 1} if answer else {"docstring_long_summary": 1})
