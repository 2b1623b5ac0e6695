"""Documents in, two labeled tables out; where there are no docstrings, the tables say why they are empty."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm.core.tables import SPLITS, empty_reason, read_table
from llm.corpus.docstrings import module_text
from llm.corpus.labels import DOCSTRING, LIBRARY
from llm.corpus.params import LabelParams
from llm.report.metrics import NO_DOCSTRINGS
from stages.label import main

PACKAGES = ("json", "xml")
Label = Callable[..., tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]]


def code(package: str, split: str) -> str:
    """Return three functions that name their package; the docstring of each is its own."""
    return "\n".join(
        f'def {package}_{split}_{name}(value):\n    """Return the {name} of a {split} value.\n\n'
        f'    At length, by {package}.check in {len(package)} steps.\n    """\n    return {package}.check(value)\n\n'
        for name in ("first", "second", "last")
    )


# One package as source code, the other one as its documentation.
CORPUS = {
    split: {
        f"json/{split}er.py": code("json", split),
        f"xml/{split}er.py": module_text(code("xml", split)),
        "notes.txt": f"def {split}()\n\nNo module.",
    }
    for split in SPLITS
}


@pytest.fixture
def label(tmp_path: Path, write_corpus: Callable[..., Path]) -> Label:
    """A runner of the stage; gives back the rows of both tables and the metrics."""

    def run(documents: dict[str, dict[str, str]], **changes: int) -> tuple[list, list, dict]:
        knobs = {"n_packages": 5, "max_train_rows_per_package": 99, "max_rows_per_document": 99}
        knobs |= {"min_chars": 1, "max_chars": 2000, "max_answer_chars": 50} | changes
        library, docstring, metrics = (tmp_path / name for name in ("library.parquet", "docstring.parquet", "m.json"))
        main(LabelParams(**knobs), write_corpus(tmp_path / "corpus", documents), library, docstring, metrics)
        rows = [read_table(path).to_pylist() for path in (library, docstring)]
        return *rows, json.loads(metrics.read_text())

    return run


def test_every_docstring_becomes_a_row_of_its_package_in_the_split_of_its_document(label: Label) -> None:
    library, docstring, metrics = label(CORPUS)
    split_of = {path: split for split, documents in CORPUS.items() for path in documents}
    assert Counter((row["label"], row["split"]) for row in library) == {
        (package, split): 3 for package in PACKAGES for split in SPLITS
    }
    for row in [*library, *docstring]:
        assert row["split"] == split_of[row["path"]]
    for row in library:
        assert "json" not in row["text"] and "xml" not in row["text"] and "by MASKED in" in row["text"]
    assert {row["output"] for row in docstring} == {
        f"Return the {name} of a {split} value." for name in ("first", "second", "last") for split in SPLITS
    }
    assert all(row["input"].startswith("def ") and row["input"].endswith("(value)") for row in docstring)
    assert metrics["library"] == metrics["docstring"] == dict.fromkeys(SPLITS, 6)
    assert metrics["library_packages"] == dict.fromkeys(PACKAGES, 9)
    assert "empty_reason" not in metrics


@pytest.mark.parametrize(
    "documents", [{}, {"train": {"a.py": "def f():\n    return 1\n"}, "val": {"b.md": "def f()\n\nReturn 1."}}]
)
def test_without_docstrings_both_tables_are_empty_and_say_why(
    documents: dict[str, dict[str, str]], label: Label, tmp_path: Path
) -> None:
    library, docstring, metrics = label(documents)
    assert library == docstring == []
    reason = NO_DOCSTRINGS
    assert metrics["empty_reason"] == {"library": reason, "docstring": reason}
    for name, schema in (("library", LIBRARY), ("docstring", DOCSTRING)):
        assert empty_reason(tmp_path / f"{name}.parquet") == reason
        assert read_table(tmp_path / f"{name}.parquet").schema == schema


def test_a_table_with_nothing_held_out_is_empty_and_says_so(label: Label, tmp_path: Path) -> None:
    bare = {"json/plain.py": code("json", "test").replace("Return", "Long " * 20)}
    library, docstring, metrics = label({"train": CORPUS["train"], "val": CORPUS["val"], "test": bare})
    assert len(library) == 9 and docstring == []
    reason = "no docstring of the corpus is left in test"
    assert metrics["empty_reason"] == {"docstring": reason}
    assert empty_reason(tmp_path / "docstring.parquet") == reason
    assert empty_reason(tmp_path / "library.parquet") is None


def test_without_a_package_in_train_and_test_there_is_no_class(label: Label, tmp_path: Path) -> None:
    library, docstring, _ = label({"train": {"json/a.py": code("json", "a")}, "test": {"xml/a.py": code("xml", "a")}})
    assert library == [] and docstring == []
    assert empty_reason(tmp_path / "library.parquet") == "no package of the corpus is in train and in test"


def test_the_same_corpus_gives_the_same_bytes(label: Label, tmp_path: Path) -> None:
    both = []
    for _ in range(2):
        label(CORPUS, max_train_rows_per_package=4)
        both.append([(tmp_path / f"{name}.parquet").read_bytes() for name in ("library", "docstring")])
    assert both[0] == both[1]
