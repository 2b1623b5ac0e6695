"""A file of rows is read as it is written: every value, every row's number, nothing guessed."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.finetune.data.reading import as_text, read_file, some

# What a spreadsheet or pandas would like to make something else of.
HARD = [
    "NA",
    "null",
    "007",
    "1e5",
    "True",
    "",
    " spaces ",
    'a "quoted", text',
    "two\nlines",
    "2024-01-02",
    "déjà 🙂",
    "#",
]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_text_is_the_one_that_was_written(tmp_path, ending):
    path, table = tmp_path / f"rows{ending}", pd.DataFrame({"n": [f"r{n}" for n in range(len(HARD))], "text": HARD})
    match ending:
        case ".parquet":
            table.to_parquet(path)
        case ".json":
            path.write_text(json.dumps(table.to_dict("records"), indent=2))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
        case _:
            table.to_csv(path, index=False, sep="," if ending == ".csv" else "\t")
    read = read_file(path).table
    assert read["text"].tolist() == HARD
    assert read.columns.tolist() == ["n", "text"]
    assert read.index.tolist() == list(range(1, len(HARD) + 1))


def test_an_ending_in_capitals_is_the_same_ending(tmp_path):
    (tmp_path / "ROWS.CSV").write_text("text\na\n")
    assert read_file(tmp_path / "ROWS.CSV").table["text"].tolist() == ["a"]


def test_lines_of_json_keep_their_numbers_behind_empty_ones(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"a": 1}\n  \n{"b": [2]}\n')
    table = read_file(path).table
    assert table.index.tolist() == [2, 4]
    assert as_text(table.loc[4, "a"]) == ""
    assert table.loc[4, "b"] == [2]


def test_empty_lines_of_a_csv_are_no_rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\na,b\n\n1,2\n\n\n3,4\n\n")
    table = read_file(path).table
    assert table.to_dict("list") == {"a": ["1", "3"], "b": ["2", "4"]}
    assert table.index.tolist() == [1, 2]


def test_without_a_header_columns_are_numbers_and_quotes_of_a_tsv_are_text(tmp_path):
    (tmp_path / "rows.tsv").write_text('ham\t"Go, he said\nspam\tWIN "now"\n')
    assert read_file(tmp_path / "rows.tsv", header=False).table.to_dict("list") == {
        "1": ["ham", "spam"],
        "2": ['"Go, he said', 'WIN "now"'],
    }
    (tmp_path / "rows.csv").write_text('ham,"Go, he said"\n')
    assert read_file(tmp_path / "rows.csv", header=False).table.to_dict("list") == {"1": ["ham"], "2": ["Go, he said"]}


FRENCH = ["déjà vu à Montréal", "l'été où il a neigé", "façade près du château", "où êtes-vous allés à Noël ?"]


@pytest.mark.parametrize(
    ("encoding", "named", "told"),
    [
        ("utf-8-sig", None, None),
        ("utf-16", None, None),
        ("utf-16-le", None, "utf_16_le, guessed, confidence"),
        ("cp1252", None, "cp1252, guessed, confidence"),
        ("cp1252", "cp1252", None),
    ],
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_tables_of_other_encodings_are_read_and_a_guess_is_told(tmp_path, name, encoding, named, told):
    lines = [f"{text};{n}\r\n" for n, text in enumerate(["text", *FRENCH])]
    if name == "rows.jsonl":
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\r\n" for text in FRENCH]
    (tmp_path / name).write_bytes("".join(lines).encode(encoding))
    found = read_file(tmp_path / name, encoding=named)
    assert found.table["text"].tolist() == FRENCH
    assert found.dialect == ("separated by semicolons, quotes enclose cells" if name == "rows.csv" else None)
    said = ", ".join(found.encoding) if found.encoding.doubt else None
    assert said is told is None or said.startswith(told)


def test_two_columns_of_one_name_keep_it(tmp_path):
    (tmp_path / "rows.csv").write_text("text,text\na,b\n")
    assert read_file(tmp_path / "rows.csv").table.columns.tolist() == ["text", "text"]


def test_a_text_longer_than_a_page_is_read_and_a_broken_line_behind_it_found(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\n{'long ' * 60_000},a\n")
    assert len(read_file(path).table.loc[1, "text"]) == 300_000
    path.write_text(f"{path.read_text()}b,c,d\n")
    with pytest.raises(UserError, match="line 3: expected 2 fields, as in the first row, got 3"):
        read_file(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_what_is_no_file_is_told(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: expected a file of labeled rows, there is none"):
        read_file(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: expected a file of labeled rows, got a folder"):
        read_file(tmp_path / name)


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
        (False, "false"),
        (b"caf\xc3\xa9", "café"),
        (b"\xff", "\\xff"),
        (np.array([1, 2]), "[1 2]"),
        (float("inf"), "inf"),
    ],
)
def test_a_value_as_text(value, text):
    assert as_text(value) == text


@given(values=st.lists(st.text(min_size=1), min_size=1, max_size=12), n_shown=st.integers(1, 6))
def test_some_of_the_values_are_one_short_line(values, n_shown):
    shown = some(values, n_shown)
    assert len(shown.splitlines()) == 1
    assert shown.endswith(f" and {len(values) - n_shown} more") == (len(values) > n_shown)


def test_long_values_are_cut():
    assert len(some(["x" * 5000])) == 60
