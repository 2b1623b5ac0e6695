"""A file of rows is a table of the texts that were written; cells of other types have one spelling."""

import pytest

from llm.core.errors import UserError
from llm.finetune.data.labeled import as_text, read_file, some


def test_rows_are_numbered_as_in_the_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text('\n{"a": 1}\n  \n{"b": [2]}\n')
    table = read_file(tmp_path / "rows.jsonl")[0]
    assert table.index.tolist() == [2, 4]
    assert as_text(table.loc[4, "a"]) == ""
    assert table.loc[4, "b"] == [2]
    (tmp_path / "rows.csv").write_text("\na,a\n\n1,2\n\n\n3,4\n\n")
    table = read_file(tmp_path / "rows.csv")[0]
    assert (table.columns.tolist(), table.index.tolist()) == (["a", "a"], [1, 2])


def test_an_encoding_may_be_named(tmp_path):
    text = "où êtes-vous allés à Noël, près du château ?"
    (tmp_path / "rows.csv").write_bytes(f"text;n\r\n{text};1\r\n".encode("cp1252"))
    for named in (None, "cp1252"):
        table, rows = read_file(tmp_path / "rows.csv", encoding=named)
        assert table["text"].tolist() == [text]
        assert bool(rows.encoding.doubt) is (named is None)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "rows.txt", "rows"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    path = tmp_path / name
    for make in (lambda: None, lambda: path.write_bytes(b"PAR1 \xff broken"), lambda: (path.unlink(), path.mkdir())):
        make()
        with pytest.raises(UserError, match=f"{name}: expected [^\n]*$"):
            read_file(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (3.0, "3"),
        (2.5, "2.5"),
        (True, "true"),
        (b"caf\xc3\xa9", "café"),
        (b"\xff", "\\xff"),
        (float("inf"), "inf"),
    ],
)
def test_a_value_as_text(value, text):
    assert as_text(value) == text


def test_some_values_are_one_short_line():
    assert some(["a\nb", "c", "d"], 2) == "'a\\nb', c and 1 more"
    assert len(some(["x" * 5000])) == 60
