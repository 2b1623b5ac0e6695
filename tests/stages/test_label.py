"""Documents in, two labeled tables out; where there are no docstrings, the tables say why they are empty."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.core.tables import SPLITS, empty_reason, read_table
from llm.corpus.docstrings import module_text
from llm.corpus.labels import DOCSTRING, LIBRARY, NO_DOCSTRINGS
from llm.corpus.params import LabelParams
from llm.report import metrics as report
from stages.label import main

PACKAGES = ("json", "xml")
LIMITS = {"n_packages": 5, "max_train_rows_per_package": 99, "max_rows_per_document": 99}
LIMITS |= {"min_chars": 1, "max_chars": 2000, "max_answer_chars": 50}


def code(package: str, split: str) -> str:
    """Three functions that name their package; the docstring of each is its own."""
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
BARE = {"json/plain.py": code("json", "test").replace("Return", "Long " * 20)}


@pytest.fixture
def label(tmp_path: Path, write_corpus: Callable[..., Path]) -> Callable:
    """A runner of the stage; gives back the rows of both tables, the metrics, and the reasons of empty tables."""

    def run(documents: dict[str, dict[str, str]], **changes: int) -> tuple[list, list, dict, list]:
        tables, metrics = [tmp_path / f"{name}.parquet" for name in ("library", "docstring")], tmp_path / "m.json"
        main(LabelParams(**(LIMITS | changes)), write_corpus(tmp_path / "corpus", documents), *tables, metrics)
        assert [read_table(path).schema for path in tables] == [LIBRARY, DOCSTRING]
        rows = [read_table(path).to_pylist() for path in tables]
        return *rows, json.loads(metrics.read_text()), [empty_reason(path) for path in tables]

    return run


def test_every_docstring_becomes_a_row(label: Callable, tmp_path: Path) -> None:
    library, docstring, metrics, _ = label(CORPUS)
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
    written = [path.read_bytes() for path in sorted(tmp_path.glob("*.parquet"))]
    label(CORPUS)
    assert written == [path.read_bytes() for path in sorted(tmp_path.glob("*.parquet"))]


NO_TEST = "no docstring of the corpus is left in test"
NO_PACKAGE = "no package of the corpus is in train and in test"
EMPTY = {
    "no documents": ({}, [NO_DOCSTRINGS] * 2),
    "no docstrings": (
        {"train": {"a.py": "def f():\n    return 1\n"}, "val": {"b.md": "def f()\n\nReturn 1."}},
        [NO_DOCSTRINGS] * 2,
    ),
    "long docstrings in test": ({"train": CORPUS["train"], "val": CORPUS["val"], "test": BARE}, [None, NO_TEST]),
    "another package in test": (
        {"train": {"json/a.py": code("json", "a")}, "test": {"xml/a.py": code("xml", "a")}},
        [NO_PACKAGE, "no docstring of the corpus is left in val"],
    ),
}


@pytest.mark.parametrize(("documents", "reasons"), EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_table_has_a_reason(documents: dict, reasons: list, label: Callable) -> None:
    library, docstring, metrics, found = label(documents)
    assert found == reasons and report.NO_DOCSTRINGS == NO_DOCSTRINGS  # the page leaves such tasks out
    assert [not rows for rows in (library, docstring)] == [reason is not None for reason in reasons]
    named = zip(("library", "docstring"), reasons, strict=True)
    assert metrics["empty_reason"] == {task: reason for task, reason in named if reason}
