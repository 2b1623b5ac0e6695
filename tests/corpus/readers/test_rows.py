"""Rows of every format: dialect, encoding, places, and what cannot be read."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from llm.corpus.readers import rows as readers
from llm.corpus.readers.dialects import Dialect, find_dialect, read_cells
from llm.corpus.readers.rows import open_rows, rows_of
from llm.corpus.readers.streams import ChunkStream, ContentError

HEADER = "label\ttext\n"


def read_table(text: str, suffix: str) -> tuple[str, list[list[str]], list[str]]:
    """The dialect, the rows, and what is wrong with others."""
    dialect = find_dialect(text, suffix)
    found = list(read_cells(io.StringIO(text, newline=""), dialect))
    problems = [f"{row.line}: {row.problem}" for row in found if row.problem]
    return str(dialect), [row.values for row in found if not row.problem], problems


def read_file(folder: Path, name: str, content: str | bytes, **options) -> list:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with open_rows(folder / name, **options) as rows:
        return list(rows)


QUOTES = {
    "lone quotes that would swallow rows": (
        'ham\t"Hello there\nspam\tWin a prize now\nham\tSee you at 8\nham\tShe said bye"\nham\tlast\n',
        False,
        ['"Hello there', "Win a prize now", "See you at 8", 'She said bye"', "last"],
    ),
    "a lone quote at the end": ('ham\tfine\nspam\t"open\n', False, ["fine", '"open']),
    "a lone quote and a broken row": ('ham\t"a\nspam\nham\tb"\nham\tc\n', False, ['"a', 'b"', "c"]),
    "quotes within a text": ('ham\tshe said "bye" and left\n', False, ['she said "bye" and left']),
    "cells of two lines": ('ham\t"one\ntwo"\nspam\tthree\n', True, ["one\ntwo", "three"]),
    "cells of lines that look like rows": (
        'ham\t"one ""quoted""\nspam\ttwo"\nspam\tthree\n',
        True,
        ['one "quoted"\nspam\ttwo', "three"],
    ),
    "doubled quotes": ('ham\t"say ""hi"""\nspam\tthree\n', True, ['say "hi"', "three"]),
    "a tab in a cell": ('ham\t"one\ttwo"\nspam\tthree\n', True, ["one\ttwo", "three"]),
}


@pytest.mark.parametrize(("text", "quoted", "texts"), QUOTES.values(), ids=QUOTES.keys())
@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_the_file_decides_whether_quotes_enclose_cells(text, quoted, texts, suffix):
    dialect, found, _ = read_table(HEADER + text, suffix)
    assert dialect == f"separated by tabs, {'quotes enclose cells' if quoted else 'quotes are text'}"
    assert [row[1] for row in found[1:]] == texts


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(st.sampled_from('x"\t\n, ;'), min_size=1)), min_size=1))
def test_written_csv_is_read_back(given_rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["label", "text"], *given_rows])
    assert read_table(file.getvalue(), ".csv")[1:] == ([["label", "text"], *map(list, given_rows)], [])


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_divides_rows_evenly(mark):
    rows = [["text", "label"], ["a, b; c", "x"], ["1,5", "y"], ['say "hi"', "x"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=mark).writerows(rows)
    assert read_table(file.getvalue(), ".csv")[1:] == (rows, [])
    assert read_table(f"sep={mark}\r\n{file.getvalue()}", ".csv")[1:] == (rows, [])


def test_a_single_column_has_no_delimiter():
    assert read_table("text\none, two\nthree\n", ".csv")[2] == ["2: expected 1 field, as in the first row, got 2"]
    assert read_table('text\n"two\nlines"\n\n""\n', ".tsv")[1] == [["text"], ["two\nlines"], [""]]


def in_a_cell(lines: str, label: str) -> tuple[str, list[list[str]], list[str]]:
    return f'text,label\n"{lines}",{label}\n', [["text", "label"], [lines.replace('""', '"'), label]], []


PROBLEMS = {
    "a cell that swallows rows": (
        'text,label\n"Hello,ham\n' + "".join(f"Win {n},spam\n" for n in range(11)) + 'bye",ham\nlast,ham\n',
        [["text", "label"], ["last", "ham"]],
        ["2: expected a quote that closes its cell, got one that encloses 11 rows"],
    ),
    "verse": in_a_cell("One,\ntwo,\n" * 20, "poem"),
    "code": in_a_cell("f(a, b)\nreturn\n" * 20, "python"),
    "a table within a cell": in_a_cell('a,""b""\n' + "1,2\n" * 20, "table"),
    "broken quotes": (
        'text,label\n"a"b,x\nc,y\n\n"open,z\n',
        [["text", "label"], ["c", "y"]],
        [
            "2: expected quotes around a whole cell, got ',' expected after '\"'",
            "5: expected a quote that closes the cell, got the end of the file",
        ],
    ),
}


@pytest.mark.parametrize(("text", "rows", "problems"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_implausible_rows_are_problems(text, rows, problems):
    assert read_table(text, ".csv") == ("separated by commas, quotes enclose cells", rows, problems)


def test_no_line_is_read_before_its_row_is_requested():
    lines = iter(["a,b\n", '"1\n', '2",3\n', "4,5\n"])
    rows = read_cells(lines, Dialect(","))
    assert [next(rows).values, next(rows).values] == [["a", "b"], ["1\n2", "3"]]
    assert next(lines) == "4,5\n"


FILES = {
    "a.csv": ("text,label\none,x\n\ntwo,y\n", [(1, "line 2", ["one", "x"]), (2, "line 4", ["two", "y"])]),
    "a.tsv": ("text\tlabel\none\tx\n", [(1, "line 2", ["one", "x"])]),
    "a.jsonl": (
        '\n{"a": null, "b": [1]}\n\n{"a": 12345678901234567890123}\n',
        [(2, "line 2", {"a": None, "b": [1]}), (4, "line 4", {"a": 12345678901234567890123})],
    ),
    "b.json": ('{"a": 1}\n{"a": 2}', [(1, "line 1", {"a": 1}), (2, "line 2", {"a": 2})]),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_have_numbers_places_and_values(name, tmp_path):
    content, expected = FILES[name]
    assert [row[:3] for row in read_file(tmp_path, name, content)] == expected
    with open_rows(tmp_path / name) as rows:
        assert rows.columns == (["text", "label"] if name in ("a.csv", "a.tsv") else None)
        assert (rows.encoding.name, rows.is_array) == ("utf-8", name == "a.json")


def test_parquet_has_values_of_any_type_and_no_index(tmp_path):
    table = pd.DataFrame({"text": ["é", None], "n": [1, 2], "list": [["a"], []], "raw": [b"\xff", b""]}, index=[5, 7])
    table.to_parquet(tmp_path / "a.parquet")
    with open_rows(tmp_path / "a.parquet") as rows:
        found = list(rows)
    assert rows.columns == ["text", "n", "list", "raw"]
    assert found[0][:3] == (1, "row 1", {"text": "é", "n": 1, "list": ["a"], "raw": b"\xff"})
    assert found[1].values["text"] is None


def test_without_a_header_columns_are_numbers(tmp_path):
    first, _ = read_file(tmp_path, "a.csv", "one,x\ntwo,y\n", header=False)
    assert first.values == ["one", "x"]
    with open_rows(tmp_path / "a.csv", header=False) as rows:
        assert rows.columns == ["1", "2"]


UTF8 = "expected text in UTF-8, got the byte "
HALF = "expected Unicode text, got half a surrogate pair, "
REFUSED = {
    "no clear encoding": (
        "a.csv",
        b"text\nno cloud above accra \xe9",
        "expected an encoding that can be recognised, got",
    ),
    "a damaged line": ("a.csv", ("é" * 9 + "\n\xa0é").encode() + b"\xe9x", f"line 2: {UTF8}0xe9"),
    "a damaged object": ("a.jsonl", '{"é": "é"}\n{"a": "'.encode() + b'\xa0"}', f"line 2: {UTF8}0xa0"),
    "an archive": ("a.csv", b"PK\x03\x04" + bytes(100), "expected text, got a ZIP archive"),
    "nothing": ("a.csv", b"\n", "expected a header and rows, got an empty file"),
    "a short row": ("a.csv", b"a,b\n1,2\n3\n", "line 3: expected 2 fields, as in the first row, got 1"),
    "an open array": ("a.json", b'[{"a": 1}, {"b"', "expected a JSON array with an end, got the end of the file"),
    "no comma": ("a.json", b'[{"a": 1} {"b": 2}]', "row 1: expected a JSON object on each line, or one array, got"),
    "more behind it": ("a.json", b'[{"a": 1}]\n[]', "expected one JSON array, got more behind it"),
    "too deep": ("a.json", b"[" * 200_000 + b"]" * 200_000, "row 1: expected a JSON object, got one that is too deep"),
    "an object over lines": (
        "a.jsonl",
        b'{\n"a": 1}',
        "line 1: expected a JSON object on each line, or one array, got",
    ),
    "half of a character": ("a.jsonl", b'{"a": ["\\ud83d"]}', f"line 1: {HALF}\\ud83d"),
    "half of one in a key": ("a.json", b'[{"\\ude00": 1}]', f"row 1: {HALF}\\ude00"),
}


@pytest.mark.parametrize(("name", "content", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_cannot_be_read_is_one_line(name, content, problem, tmp_path):
    with pytest.raises(ContentError) as caught:
        read_file(tmp_path, name, content)
    assert str(caught.value).startswith(problem) and "\n" not in str(caught.value)


VALUES = st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text(), max_size=3))


@given(st.lists(st.dictionaries(st.text(), VALUES)), st.sampled_from([None, 3]), st.integers(3, 9))
def test_objects_of_an_array_are_read_back(objects, indent, chunk_bytes):
    content = f"{json.dumps(objects, indent=indent)}\n".encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BUFFER_BYTES", chunk_bytes)
        found = list(rows_of(ChunkStream(iter([content])).buffered(), ".json"))
    assert [row.values for row in found] == objects
    assert [row.place for row in found] == [f"row {number}" for number in range(1, len(objects) + 1)]


def test_damaged_bytes_are_a_problem_only_in_needed_columns():
    wrong = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9!")])
    file = io.BytesIO()
    parquet.write_table(pa.table({"a": pa.chunked_array([["one"], wrong]), "b": ["x", "y"]}), file)
    stream = io.BufferedReader(file)
    assert [row.values["b"] for row in rows_of(stream, ".parquet", column="b")] == ["x", "y"]
    with pytest.raises(ContentError, match="expected a whole Parquet file"):
        list(rows_of(stream, ".parquet", column="a"))
