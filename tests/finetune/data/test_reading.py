"""A file of rows is a table of the texts that were written; cells of other types have one spelling."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.finetune.data.reading import as_text, read_file, some


def test_rows_are_numbered_as_in_the_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text('\n{"a": 1}\n  \n{"b": [2]}\n')
    table = read_file(tmp_path / "rows.jsonl").table
    assert table.index.tolist() == [2, 4]
    assert as_text(table.loc[4, "a"]) == ""
    assert table.loc[4, "b"] == [2]
    (tmp_path / "rows.csv").write_text("\na,a\n\n1,2\n\n\n3,4\n\n")
    table = read_file(tmp_path / "rows.csv").table
    assert (table.columns.tolist(), table.index.tolist()) == (["a", "a"], [1, 2])


def test_a_guessed_encoding_is_doubtful(tmp_path):
    text = "où êtes-vous allés à Noël, près du château ?"
    (tmp_path / "rows.csv").write_bytes(f"text;n\r\n{text};1\r\n".encode("cp1252"))
    for named in (None, "cp1252"):
        found = read_file(tmp_path / "rows.csv", encoding=named)
        assert found.table["text"].tolist() == [text]
        assert found.dialect == "separated by semicolons, quotes enclose cells"
        assert bool(found.encoding.doubt) is (named is None)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "rows.txt", "rows"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    lines = []
    for change in (
        lambda path: None,
        lambda path: path.write_bytes(b"PAR1 \xff broken"),
        lambda path: (path.unlink(), path.mkdir()),
    ):
        change(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: expected [^\n]*$") as caught:
            read_file(tmp_path / name)
        lines.append(str(caught.value))
    assert lines[2].endswith("got a folder")
    if "." in name and name != "rows.txt":
        assert lines[0].endswith("there is none")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (3.0, "3"),
        (2.5, "2.5"),
        (np.int64(7), "7"),
        (np.float32(4), "4"),
        (np.bool_(True), "true"),
        (b"caf\xc3\xa9", "café"),
        (b"\xff", "\\xff"),
        (np.array([1, 2]), "[1 2]"),
        (float("inf"), "inf"),
    ],
)
def test_a_value_as_text(value, text):
    assert as_text(value) == text


@given(values=st.lists(st.text(min_size=1), min_size=1, max_size=12), n_shown=st.integers(1, 6))
def test_some_values_are_one_short_line(values, n_shown):
    shown = some(values, n_shown)
    assert len(shown.splitlines()) == 1
    assert shown.endswith(f" and {len(values) - n_shown} more") == (len(values) > n_shown)
    assert len(some(["x" * 5000])) == 60
