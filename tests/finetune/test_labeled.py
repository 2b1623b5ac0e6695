"""Labeled rows come in as they are written, and a bad file says where it is bad."""

import json
from pathlib import Path

import pandas as pd
import pytest

from llm.errors import UserError
from llm.finetune.labeled import read_labeled

ROWS = [
    {"text": "one", "label": "1", "split": "train"},
    {"text": "two, and a comma", "label": "NA", "split": "val"},
    {"text": 'three "quoted"\nlines', "label": "null", "split": "test"},
    {"text": "007", "label": "1e5", "split": "train"},
    {"text": "nan", "label": "true", "split": "train"},
]


def _write(path: Path, rows: list[dict]) -> Path:
    match path.suffix:
        case ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        case ".tsv":
            pd.DataFrame(rows).to_csv(path, index=False, sep="\t")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture(params=[".csv", ".tsv", ".jsonl", ".parquet"])
def ending(request) -> str:
    return request.param


def _error(path: Path, columns: tuple[str, ...] = ("text", "label"), split_column: str | None = "split") -> str:
    with pytest.raises(UserError) as caught:
        read_labeled(path, list(columns), split_column)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_every_value_is_the_text_that_was_written(tmp_path, ending):
    path = _write(tmp_path / f"rows{ending}", ROWS)
    assert read_labeled(path, ["text", "label"], "split").to_dict("records") == ROWS


def test_columns_of_other_names_are_found_and_the_rest_is_left(tmp_path, ending):
    renamed = [{"created_at": row["text"], "date": row["label"], "fold": row["split"], "weight": "3"} for row in ROWS]
    read = read_labeled(_write(tmp_path / f"rows{ending}", renamed), ["created_at", "date"], "fold")
    assert read.rename(columns={"created_at": "text", "date": "label"}).to_dict("records") == ROWS


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_numbers_become_text_as_they_are_written(tmp_path, kind):
    rows = [row | {"label": number} for number, row in enumerate(ROWS)]
    read = read_labeled(_write(tmp_path / f"rows{kind}", rows), ["text", "label"], "split")
    assert read["label"].tolist() == ["0", "1", "2", "3", "4"]


def test_without_a_split_column_the_text_alone_decides_the_split(tmp_path, ending):
    rows = [{"text": f"text {number}", "label": str(number % 3)} for number in range(200)]
    first = read_labeled(_write(tmp_path / f"first{ending}", rows), ["text", "label"], None)
    other = [row | {"label": "x"} for row in rows[::-1]] + [{"text": "one more", "label": "x"}]
    second = read_labeled(_write(tmp_path / f"second{ending}", other), ["text", "label"], None)
    assert set(first["split"]) == {"train", "val", "test"}
    assert (first["split"] == "train").mean() == pytest.approx(0.7, abs=0.1)
    by_text = dict(zip(second["text"], second["split"], strict=True))
    assert [by_text[text] for text in first["text"]] == first["split"].tolist()


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, ending):
    message = _error(_write(tmp_path / f"rows{ending}", ROWS), ("text", "answer"))
    assert "answer is not among" in message
    assert "text, label, split" in message


@pytest.mark.parametrize("column", ["text", "label", "split"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_value_is_named_by_column_and_row(tmp_path, ending, column, empty):
    rows = [dict(row) for row in ROWS]
    rows[1][column] = rows[4][column] = empty
    message = _error(_write(tmp_path / f"rows{ending}", rows))
    assert f"{column}: " in message
    assert message.endswith("row 2, 5")


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_nothing_in_place_of_a_value_is_named_by_column_and_row(tmp_path, kind):
    rows = [dict(row) for row in ROWS]
    rows[2]["label"] = None
    assert _error(_write(tmp_path / f"rows{kind}", rows)).endswith("label: wanted text in every row, empty in row 3")


def test_many_empty_rows_are_counted_after_the_first_few(tmp_path, ending):
    rows = [row | {"text": ""} for row in ROWS * 4]
    assert _error(_write(tmp_path / f"rows{ending}", rows)).endswith("row 1, 2, 3, 4, 5 and 15 more")


def test_a_table_without_rows_is_an_error(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    match ending:
        case ".jsonl":
            path.write_text("")
        case ".parquet":
            pd.DataFrame({"text": [], "label": [], "split": []}, dtype=str).to_parquet(path)
        case _:
            path.write_text("text,label,split\n".replace(",", "\t" if ending == ".tsv" else ","))
    assert "wanted labeled rows, given none" in _error(path)


def test_an_unknown_split_is_named(tmp_path, ending):
    rows = [*ROWS, {"text": "six", "label": "1", "split": "dev"}]
    assert _error(_write(tmp_path / f"rows{ending}", rows)).endswith("split: wanted train, val or test, given dev")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_rows_is_named(tmp_path, ending, split):
    rows = [row for row in ROWS if row["split"] != split]
    assert f"{split} has none of {len(rows)}" in _error(_write(tmp_path / f"rows{ending}", rows))


@pytest.mark.parametrize("name", ["rows.txt", "rows.json", "rows"])
def test_a_file_of_another_kind_names_the_kinds_that_are_read(tmp_path, name):
    path = tmp_path / name
    path.write_text("text\n")
    assert ".csv, .tsv, .jsonl or .parquet" in _error(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path, ending):
    assert "there is none" in _error(tmp_path / f"rows{ending}")


BROKEN = {
    "csv with a field too many in row 2": ("rows.csv", b"text,label,split\na,x,train\nb,c,x,val\n", "line 3"),
    "csv with a field too many in every row": ("rows.csv", b"text,label,split\na,b,x,train\nc,d,x,val\n", "row 1"),
    "csv with an open quote": ("rows.csv", b'text,label,split\n"a,x,train\n', "row 1"),
    "csv with a field too few": ("rows.csv", b"text,label,split\na,x,train\nb,x\n", "split: wanted text in every row"),
    "csv that is empty": ("rows.csv", b"", "header"),
    "csv in latin-1": ("rows.csv", b"text,label,split\ncaf\xe9,x,train\n", "utf-8"),
    "jsonl with a line cut short": ("rows.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a", "lab', "line 2"),
    "jsonl with a line that is no object": ("rows.jsonl", b'{"text": "a"}\n\n["a", "b"]\n', "line 3"),
    "jsonl in latin-1": ("rows.jsonl", b'{"text": "caf\xe9"}\n', "utf-8"),
    "parquet that is none": ("rows.parquet", b"PAR1 and nothing of the kind after it PAR1", "parquet"),
    "parquet that is empty": ("rows.parquet", b"", "parquet"),
}


@pytest.mark.parametrize(("name", "content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_says_where_it_is_broken(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert words in _error(path)


def test_a_parquet_file_cut_short_is_an_error(tmp_path):
    path = _write(tmp_path / "rows.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert "wanted .parquet rows" in _error(path)


def test_one_column_in_two_parts_is_an_error(tmp_path, ending):
    path = _write(tmp_path / f"rows{ending}", ROWS)
    assert "text, text, split" in _error(path, ("text", "text"))
    assert "text, split" in _error(path, ("text", "split"), None)


def test_an_input_may_be_empty_and_the_split_is_of_instruction_and_input(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.jsonl"
    rows = [{"instruction": "Repeat.", "input": "" if n == 0 else f"word {n}", "output": f"{n}"} for n in range(60)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    table = read_labeled(path, ["instruction", "input", "output"], None, may_be_empty="input")
    assert table.loc[0, "input"] == ""
    # One instruction for all rows, and yet there are three splits: the input counts as well.
    assert set(table["split"]) == {"train", "val", "test"}
