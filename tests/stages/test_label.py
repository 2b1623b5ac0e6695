"""Python documents in, two labeled tables out; where there are none, the tables say why they are empty."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm.export.card import NO_PYTHON
from llm.text.labels import DOCSTRING, LIBRARY
from llm.text.params import LabelParams
from llm.text.tables import SPLITS, empty_because, read_table
from stages.label import main

PACKAGES = ("json", "xml")
Label = Callable[..., tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]]


def module(package: str, split: str) -> str:
    """Three functions that name their package; the text of each is its own."""
    return "\n".join(
        f'def {name}(value):\n    """Return the {name} of a value.\n\n    At length.\n    """\n'
        f"    {package}.check(value)\n    return {package}_{name}, {split!r}, {len(package)}\n\n"
        for name in ("first", "second", "last")
    )


CORPUS = {
    split: {f"{package}/{split}er.py": module(package, split) for package in PACKAGES} | {"notes.txt": f"{split} json"}
    for split in SPLITS
}


@pytest.fixture
def label(tmp_path: Path, write_corpus: Callable[..., Path]) -> Label:
    """A runner of the stage; gives back the rows of both tables and the metrics."""

    def run(documents: dict[str, dict[str, str]], **changes: int) -> tuple[list, list, dict]:
        knobs = {"n_packages": 5, "max_rows_per_package": 99, "max_rows_per_document": 99}
        knobs |= {"min_chars": 1, "max_chars": 2000} | changes
        library, docstring, metrics = (tmp_path / name for name in ("library.parquet", "docstring.parquet", "m.json"))
        main(LabelParams(**knobs), write_corpus(tmp_path / "corpus", documents), library, docstring, metrics)
        rows = [read_table(path).to_pylist() for path in (library, docstring)]
        return *rows, json.loads(metrics.read_text())

    return run


def test_every_function_becomes_a_row_of_its_package_in_the_split_of_its_document(label: Label) -> None:
    library, docstring, metrics = label(CORPUS)
    split_of = {path: split for split, documents in CORPUS.items() for path in documents}
    assert Counter((row["label"], row["split"]) for row in library) == {
        (package, split): 3 for package in PACKAGES for split in SPLITS
    }
    for row in [*library, *docstring]:
        assert row["split"] == split_of[row["path"]]
        assert row["path"].endswith(".py")
    assert metrics["library"] == metrics["docstring"] == dict.fromkeys(SPLITS, 6)
    assert metrics["library_packages"] == dict.fromkeys(PACKAGES, 9)
    assert "empty_because" not in metrics


def test_no_row_of_library_names_its_package_or_module(label: Label) -> None:
    library, _, _ = label(CORPUS)
    for row in library:
        assert not re.search("json|xml|trainer|valer|tester", row["text"])
        assert "MASKED.check" in row["text"]


def test_the_input_of_a_docstring_row_lacks_the_docstring_that_is_its_answer(label: Label) -> None:
    _, docstring, _ = label(CORPUS)
    assert {row["output"] for row in docstring} == {f"Return the {n} of a value." for n in ("first", "second", "last")}
    for row in docstring:
        assert row["output"] not in row["input"] and "At length" not in row["input"]
        assert row["input"].startswith("def ") and "return" in row["input"]


def test_functions_of_another_length_are_dropped_and_counted(label: Label) -> None:
    long = {"json/long.py": "def f():\n" + "    f()\n" * 99}
    library, _, metrics = label(CORPUS | {"train": CORPUS["train"] | long}, max_chars=400)
    assert metrics["dropped"]["too_short_or_long"] == 1
    assert all("f()" not in row["text"] for row in library)


def test_documents_nested_too_deep_for_the_parser_are_counted_and_named(
    label: Label, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = {"json/deep.py": f"x = 1{' + 1' * 20_000}\n", "json/wrong.py": "def f(:\n"}
    _, _, before = label(CORPUS)
    _, _, metrics = label(CORPUS | {"train": CORPUS["train"] | deep})
    assert metrics["dropped"] == before["dropped"] | {"documents_not_parsed": 2}
    assert "label: 2 Python documents were not parsed, first json/deep.py" in capsys.readouterr().err.splitlines()
    _, _, metrics = label({"train": deep})
    assert set(metrics["empty_because"].values()) == {"the corpus has no Python documents that can be parsed"}


@pytest.mark.parametrize("documents", [{}, {"train": {"a.txt": "def f():\n    return 1\n"}, "val": {"b.md": "text"}}])
def test_without_python_both_tables_are_empty_and_say_why(
    documents: dict[str, dict[str, str]], label: Label, tmp_path: Path
) -> None:
    library, docstring, metrics = label(documents)
    assert library == docstring == []
    reason = NO_PYTHON
    assert metrics["empty_because"] == {"library": reason, "docstring": reason}
    for name, schema in (("library", LIBRARY), ("docstring", DOCSTRING)):
        assert empty_because(tmp_path / f"{name}.parquet") == reason
        assert read_table(tmp_path / f"{name}.parquet").schema == schema


def test_a_table_with_nothing_held_out_is_empty_and_says_so(label: Label, tmp_path: Path) -> None:
    bare = {"json/plain.py": "def f(a):\n    return json(a)\n"}
    library, docstring, metrics = label({"train": CORPUS["train"], "val": CORPUS["val"], "test": bare})
    assert len(library) == 7 and docstring == []
    reason = "no function of the corpus is left in test"
    assert metrics["empty_because"] == {"docstring": reason}
    assert empty_because(tmp_path / "docstring.parquet") == reason
    assert empty_because(tmp_path / "library.parquet") is None


def test_without_a_package_in_train_and_test_there_is_no_class(label: Label, tmp_path: Path) -> None:
    library, docstring, _ = label(
        {"train": {"json/a.py": module("json", "a")}, "test": {"xml/a.py": module("xml", "a")}}
    )
    assert library == [] and docstring == []
    assert empty_because(tmp_path / "library.parquet") == "no package of the corpus is in train and in test"


def test_the_same_corpus_gives_the_same_bytes(label: Label, tmp_path: Path) -> None:
    both = []
    for _ in range(2):
        label(CORPUS, max_rows_per_package=4)
        both.append([(tmp_path / f"{name}.parquet").read_bytes() for name in ("library", "docstring")])
    assert both[0] == both[1]
