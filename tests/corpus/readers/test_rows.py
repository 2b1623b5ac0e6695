"""Rows of files as people write them: what separates them, what encloses cells, and where each begins."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.corpus.readers import rows as module
from llm.corpus.readers.rows import Dialect, RowsError, find_dialect, open_text, read_json, read_rows

HEADER = "label\ttext\n"


def read(text: str, suffix: str) -> tuple[str, list[list[str]], list[str]]:
    """The dialect, the rows, and what is wrong with others."""

    def open_lines() -> io.StringIO:
        return io.StringIO(text, newline="")

    dialect = find_dialect(open_lines, suffix)
    found = list(read_rows(open_lines(), dialect))
    problems = [f"{row.line}: {row.problem}" for row in found if row.problem]
    return str(dialect), [row.fields for row in found if not row.problem], problems


QUOTES = {
    "lone quotes that would swallow rows": (
        'ham\t"Hello there\nspam\tWin a prize now\nham\tSee you at 8\nham\tShe said bye"\nham\tlast\n',
        False,
        ['"Hello there', "Win a prize now", "See you at 8", 'She said bye"', "last"],
    ),
    "a lone quote at the end": ('ham\tfine\nspam\t"open\n', False, ["fine", '"open']),
    "a lone quote and a broken row": ('ham\t"a\nspam\nham\tb"\nham\tc\n', False, ['"a', 'b"', "c"]),
    "quotes within a text": ('ham\tshe said "bye" and left\n', False, ['she said "bye" and left']),
    "speech and more": ('ham\t"Hello" she said\nham\t"Bye"\n', False, ['"Hello" she said', '"Bye"']),
    "cells of two lines": ('ham\t"one\ntwo"\nspam\tthree\n', True, ["one\ntwo", "three"]),
    "cells of two lines that look like rows": (
        'ham\t"one ""quoted""\nspam\ttwo"\nspam\tthree\n',
        True,
        ['one "quoted"\nspam\ttwo', "three"],
    ),
    "doubled quotes": ('ham\t"say ""hi"""\nspam\tthree\n', True, ['say "hi"', "three"]),
    "a tab in a cell": ('ham\t"one\ttwo"\nspam\tthree\n', True, ["one\ttwo", "three"]),
    "no quotes": ("ham\tone\n", False, ["one"]),
}


@pytest.mark.parametrize(("text", "quoted", "texts"), QUOTES.values(), ids=QUOTES.keys())
@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_whether_quotes_enclose_cells_is_decided_by_the_file(text, quoted, texts, suffix):
    dialect, found, _ = read(HEADER + text, suffix)
    assert dialect == f"separated by tabs, {'quotes enclose cells' if quoted else 'quotes are text'}"
    assert [row[1] for row in found[1:]] == texts


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(st.sampled_from('x"\t\n, ;'), min_size=1)), min_size=1))
def test_what_a_writer_of_csv_wrote_comes_back(given_rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["label", "text"], *given_rows])
    assert read(file.getvalue(), ".csv")[1:] == ([["label", "text"], *map(list, given_rows)], [])


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_what_divides_the_rows_evenly(mark):
    rows = [["text", "label"], ["a, b; c", "x"], ["1,5", "y"], ['say "hi"', "x"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=mark).writerows(rows)
    assert read(file.getvalue(), ".csv")[1:] == (rows, [])
    assert read(f"sep={mark}\r\n{file.getvalue()}", ".csv")[1:] == (rows, [])


def test_a_single_column_has_no_delimiter():
    assert read("text\none, two\nthree\n", ".csv")[2] == ["2: expected 1 field, as in the first row, got 2"]
    assert read('text\n"two\nlines"\n', ".tsv")[1] == [["text"], ["two\nlines"]]
    assert read("v1,v2,,,\nham,one,,,\n", ".csv")[1] == [["v1", "v2", "", "", ""], ["ham", "one", "", "", ""]]


PROBLEMS = {
    "a cell that swallows rows": (
        'text,label\n"Hello,ham\n' + "".join(f"Win {n},spam\n" for n in range(11)) + 'bye",ham\nlast,ham\n',
        [["text", "label"], ["last", "ham"]],
        ["2: expected a quote that closes its cell, got one that encloses 11 rows"],
    ),
    "verse": (
        'text,label\n"' + "One,\ntwo,\n" * 20 + '",poem\n',
        [["text", "label"], ["One,\ntwo,\n" * 20, "poem"]],
        [],
    ),
    "code": (
        'text,label\n"' + "f(a, b)\nreturn\n" * 20 + '",python\n',
        [["text", "label"], ["f(a, b)\nreturn\n" * 20, "python"]],
        [],
    ),
    "a table within a cell": (
        'text,label\n"a,""b""\n' + "1,2\n" * 20 + '",table\n',
        [["text", "label"], ['a,"b"\n' + "1,2\n" * 20, "table"]],
        [],
    ),
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
def test_a_row_that_cannot_be_meant_is_a_problem(text, rows, problems):
    assert read(text, ".csv") == ("separated by commas, quotes enclose cells", rows, problems)


def test_a_row_is_given_before_the_next_line_is_read():
    lines = iter(["a,b\n", '"1\n', '2",3\n', "4,5\n"])
    rows = read_rows(lines, Dialect(","))
    assert [next(rows).fields, next(rows).fields] == [["a", "b"], ["1\n2", "3"]]
    assert next(lines) == "4,5\n"


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("is_named", [False, True])
def test_a_mark_names_the_encoding_and_is_no_text(tmp_path: Path, encoding: str, is_named: bool):
    (tmp_path / "rows.csv").write_bytes("déjà\r\n".encode(encoding))
    with open_text(tmp_path / "rows.csv", encoding if is_named else None) as (file, found):
        assert (file.read(), found.doubt) == ("déjà\r\n", "")


BYTES = {
    "no clear encoding": (
        b"text\nno cloud above accra \xe9",
        None,
        "expected an encoding that can be recognised, got ",
    ),
    "a damaged line": (
        ("é" * 9 + "\n\xa0é").encode() + b"\xe9x",
        None,
        "line 2: expected UTF-8 text, byte 5 of the line",
    ),
    "another": ("é".encode(), "ascii", "expected text in ascii (named), got other bytes ("),
}


@pytest.mark.parametrize(("content", "encoding", "problem"), BYTES.values(), ids=BYTES.keys())
def test_other_bytes_are_refused_with_the_option_that_helps(tmp_path, content, encoding, problem):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(RowsError) as caught, open_text(tmp_path / "rows.csv", encoding) as (file, _):
        file.read()
    assert problem in str(caught.value)
    assert "--encoding, or encoding: in params.yaml" in str(caught.value)


def test_binary_data_is_refused_as_what_it_is(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(RowsError, match="expected text, got a ZIP archive"), open_text(tmp_path / "rows.csv"):
        pass


VALUES = st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text(), max_size=3))


@given(st.lists(st.dictionaries(st.text(), VALUES)), st.sampled_from([None, 0, 3]), st.integers(1, 9))
def test_the_objects_of_an_array_come_back(objects, indent, chunk_chars):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_CHARS", chunk_chars)
        found = list(read_json(io.StringIO(f"{json.dumps(objects, indent=indent)}\n")))
    assert [row.content for row in found] == objects
    assert [row.place for row in found] == [f"row {number}" for number in range(1, len(objects) + 1)]


def test_lines_have_their_numbers_and_numbers_may_be_none():
    text = io.StringIO('\n{"a": NaN, "b": [-Infinity]}\n\n{"a": 1}\n')
    found = list(read_json(text))
    assert [(row.number, row.place) for row in found] == [(2, "line 2"), (4, "line 4")]
    assert str(found[0].content) == "{'a': nan, 'b': [-inf]}"


JSON = {
    "an array that ends": ('[{"a": 1}, {"b"', "row 2: expected an array of JSON objects, Expecting ':' delimiter"),
    "an array that is not closed": ('[{"a": 1}', "row 1: expected an array of JSON objects, the array is not closed"),
    "no comma": ('[{"a": 1} {"b": 2}]', "row 2: expected an array of JSON objects, the array is not closed"),
    "more behind it": ('[{"a": 1}]\n[]', "expected one JSON array, got more behind it"),
    "numbers": ("[1]", "row 1: expected a JSON object, got 1"),
    "too deep": ("[" * 200_000, "row 1: expected a JSON object, it is too deep or too long"),
    "an object over lines": ('{\n"a": 1}', "line 1: expected a JSON object on each line, or one array, Expecting prop"),
    "a line too deep": ('{"a":' * 200_000, "line 1: expected a JSON object, it is too deep or too long"),
    "half of a character": ('{"a": ["\\ud83d"]}', "line 1: expected characters, got half of one, \\ud83d"),
    "half of one in a key": ('[{"\\ude00": 1}]', "row 1: expected characters, got half of one, \\ude00"),
}


@pytest.mark.parametrize(("text", "problem"), JSON.values(), ids=JSON.keys())
def test_other_json_is_refused_with_its_place(text, problem):
    with pytest.raises(RowsError) as caught:
        list(read_json(io.StringIO(text)))
    assert str(caught.value).startswith(problem)
