"""Labeled rows are read as they were written; invalid ones are named in one line, or dropped and counted."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llm.core.errors import UserError
from llm.finetune.data.labeled import read_classify, read_records
from llm.finetune.data.messages import read_conversations

# What a spreadsheet or pandas would convert.
ROWS = [
    {"text": "one", "label": "1", "split": "train"},
    {"text": "two, and a comma", "label": "NA", "split": "val"},
    {"text": 'three "quoted"\nlines', "label": "null", "split": "test"},
    {"text": "007", "label": "NA", "split": "train"},
    {"text": "nan", "label": "null", "split": "train"},
]
SUFFIXES = [".csv", ".tsv", ".jsonl", ".json", ".parquet"]


def write(path: Path, rows: list[dict]) -> Path:
    table = pd.DataFrame(rows)
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            table.to_parquet(path)
        case suffix:
            table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


@pytest.fixture
def read(make_task):
    """Read a file by a task with changed keys; seed 1."""

    def read_file(path: Path, seed: int = 1, **changes):
        return read_classify(path, make_task("classify", changes), seed)

    return read_file


def many(n: int = 200, **columns: Any) -> list[dict]:
    rows = [{"text": f"text {number}", "label": "abc"[number % 3], "of": f"{number // 4}"} for number in range(n)]
    return [row | {key: value(number) for key, value in columns.items()} for number, row in enumerate(rows)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_value_is_the_text_that_was_written(tmp_path, suffix, read):
    renamed = [{"created_at": row["text"], "date": row["label"], "fold": row["split"], "weight": "3"} for row in ROWS]
    columns = {"text_columns": ["created_at"], "label_column": "date", "split_column": "fold"}
    labeled = read(write(tmp_path / f"rows{suffix}", renamed), **columns)
    found = labeled.table
    rows = zip(found["texts"], found["labels"], found["split"], strict=True)
    assert [{"text": texts[0], "label": labels[0], "split": split} for texts, labels, split in rows] == ROWS
    assert found["row"].tolist() == [1, 2, 3, 4, 5]
    separators = {".csv": "commas", ".tsv": "tabs"}
    told = {"dialect": f"separated by {separators[suffix]}, quotes enclose cells"} if suffix in separators else {}
    assert labeled.counts == {"dropped": {}} | told


def test_without_a_header_columns_have_numbers(tmp_path, read):
    (tmp_path / "rows.tsv").write_text("".join(f"{'ab'[n % 2]}\ttext {n}\n" for n in range(40)))
    labeled = read(tmp_path / "rows.tsv", header=False, text_columns=["2"], label_column="1", split_column=None)
    assert sorted(labeled.table["row"]) == list(range(1, 41))
    assert labeled.table.loc[labeled.table["row"] == 5, "texts"].tolist() == [["text 4"]]


@pytest.mark.parametrize(("suffix", "as_list"), [(".csv", False), (".jsonl", True), (".parquet", True)])
def test_two_texts_and_any_number_of_labels(tmp_path, suffix, read, as_list):
    given = [["b", "a"], [], ["a"], ["a", "b"], ["b"]]
    rows = [
        row | {"label": of if as_list else " | ".join(of), "more": f"{row['text']}!"}
        for row, of in zip(ROWS, given, strict=True)
    ]
    table = read(write(tmp_path / f"rows{suffix}", rows), label_separator="|", text_columns=["more", "text"]).table
    assert table["labels"].tolist() == [["a", "b"], [], ["a"], ["a", "b"], ["b"]]
    assert table["texts"].tolist() == [[f"{row['text']}!", row["text"]] for row in ROWS]


@pytest.mark.parametrize("changes", [{"group_column": "of"}, {"text_columns": ["of", "text"], "group_column": "of"}])
def test_a_group_stays_in_one_split(tmp_path, read, changes):
    table = read(write(tmp_path / "rows.csv", many()), split_column=None, **changes).table
    assert table.groupby((table["row"] - 1) // 4)["split"].nunique().max() == 1
    assert set(table["split"]) == {"train", "val", "test"}


def test_duplicates_are_dropped_where_splits_are_drawn(tmp_path, read):
    rows = many(60) + [row | {"text": f"  {row['text']} "} for row in many(5)]
    labeled = read(write(tmp_path / "rows.csv", rows), split_column=None)
    assert labeled.counts["dropped"] == {"duplicate": 5}
    assert labeled.table["row"].max() == 60


@pytest.mark.parametrize("missing", ["val", "test"])
def test_a_missing_split_is_drawn_from_train(tmp_path, read, missing):
    given = "test" if missing == "val" else "validation"
    rows = many(100, split=lambda n: given if n % 5 == 0 else "train")
    labeled = read(write(tmp_path / "rows.csv", rows + [row | {"text": f" {row['text']}"} for row in rows]))
    table, texts = labeled.table, labeled.table["texts"].str[0].str.strip()
    assert table.groupby(texts)["split"].nunique().max() == 1
    assert labeled.counts["dropped"] == {"duplicate": 80}
    assert labeled.counts["drawn_from_train"] == {missing: (table["split"] == missing).sum()}
    assert table["split"].value_counts()["test" if missing == "val" else "val"] == 40  # the file's own split


DROPPED = {
    "empty_text": ({"text": " "}, "text: expected text, got nothing in row 49"),
    "empty_label": ({"label": ""}, "label: expected text, got nothing in row 49"),
    "unknown_split": ({"split": "fourth"}, "split: expected train, val or test, got fourth in row 49"),
    "empty_split": ({"split": ""}, "split: expected text, got nothing in row 49"),
    "label_not_in_train": (
        {"label": "new\nlabel", "split": "test"},
        "label: expected labels that train has, got 'new\\nlabel' in row 49",
    ),
    "rare_label": ({"label": "new"}, "label: expected at least 2 rows of each label in train, got 1 of new, in row 49"),
    "conflicting_labels": (
        {"text": "text 3", "label": "other"},
        "label: expected the same label for the same text, got several in row 4, 49",
    ),
    "in_two_splits": (
        {"text": "text 0", "split": "test", "label": "a"},
        "split: expected each text in one split, got it in a later one too, in row 1",
    ),
}


@pytest.mark.parametrize("reason", DROPPED)
def test_an_invalid_row_fails_or_is_dropped_and_counted(tmp_path, read, reason):
    changes, line = DROPPED[reason]
    rows = many(48, split=lambda n: ["train", "train", "val", "test"][n % 4])
    rows.append(rows[4] | {"text": "the last one", "split": "train"} | changes)
    path = write(tmp_path / "rows.csv", rows)
    with pytest.raises(UserError) as caught:
        read(path, min_rows_per_label=2)
    assert str(caught.value) == f"{path}: {line}"
    labeled = read(path, min_rows_per_label=2, on_error="skip")
    n = 2 if reason == "conflicting_labels" else 1
    assert labeled.counts["dropped"] == {reason: n}
    assert len(labeled.table) == 49 - n


def test_records_keep_lists_and_optional_texts(tmp_path, make_task):
    turns = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "gone"}]
    rows = [{"turns": [*turns, {"role": "user", "content": f"{n}"}], "of": f"{n // 4}"} for n in range(80)]
    task = make_task("instruct", {"split_column": None, "group_column": "of"})
    for kind in (".jsonl", ".parquet"):
        table = read_records(write(tmp_path / f"rows{kind}", rows), task, ["turns"], 1).table
        assert table["turns"].tolist() == [row["turns"] for row in rows]
        assert table["split"].groupby((table["row"] - 1) // 4).nunique().max() == 1
    rows = [{"ask": "Repeat.", "given": "" if n == 0 else f"word {n}", "output": f"{n}"} for n in range(60)]
    task = make_task("instruct", {"split_column": None})
    path = write(tmp_path / "alpaca.jsonl", [*rows, rows[7]])
    labeled = read_records(path, task, ["ask", "given", "output"], 1, frozenset({"given"}))
    assert labeled.table.loc[0, "given"] == ""
    assert labeled.counts == {"dropped": {"duplicate": 1}}
    assert labeled.table["split"].value_counts().to_dict() == {"train": 42, "test": 12, "val": 6}


DRAWN, SKIP = {"split_column": None}, {"on_error": "skip"}
GROUPED, ANY = DRAWN | {"group_column": "author"}, DRAWN | {"label_separator": "|"}
GOOD = "text,label,split\none,a,train\ntwo,b,train\nthree,a,val\nfour,b,test\n"
IN_TRAIN = GOOD.replace("test", "train").replace("val", "train")
NESTED = '{"text": "one", "label": {"a": 1}}\n{"text": "two", "label": [["a"], "b"]}\n'
AUTHORS = "text,label,author\none,a,x\ntwo,b,x\nthree,a,y\nfour,b,y\n"
SPLIT_AUTHORS = "text,label,split,author\none,a,train,x\ntwo,b,train,y\nthree,a,val,z\nfour,b,test,x\n"
ALPACA = {"rows": {"kind": "alpaca", "instruction": "instruction", "input": "input", "output": "output"}}
RESERVED = {"rows": {"kind": "prompt_completion", "prompt": "row", "completion": "completion"}}
MESSAGES = {"rows": {"kind": "messages", "messages": "messages"}}
BROKEN = [
    ("classify", "text,label,split\n", {}, "expected labeled rows, got none"),
    ("classify", GOOD + "five,a\n", {}, "line 6: expected 3 fields, as in the first row, got 2"),
    ("classify", GOOD, {"label_column": "stars"}, "expected columns stars, got text, label, split"),
    ("classify", GOOD, {"label_column": "text"}, "expected different columns, got text, text, split"),
    ("classify", "text,text,label,split\n,,,\n", {}, "text: expected one column of this name, got several"),
    ("classify", GOOD + "five,,train\n" * 7, {}, "label: expected text, got nothing in row 5, 6, 7, 8, 9 and 2 more"),
    (
        "classify",
        '{"text": ["a"], "label": "a"}\n',
        DRAWN,
        "text: expected text, got a list or a mapping in row 1",
    ),
    (
        "classify",
        '{"text": "one", "label": ["a"]}\n',
        DRAWN,
        "label: expected one label, got a list (see label_separator) in row 1",
    ),
    ("classify", NESTED, ANY, "label: expected labels, got a mapping or a list within a list in row 1, 2"),
    ("classify", IN_TRAIN, {}, "expected rows in train, val and test, got none in val of 4"),
    ("classify", AUTHORS, GROUPED, "expected rows in train, val and test, got none in val of 4 in 2 groups"),
    ("classify", AUTHORS + "five,b,\n", GROUPED, "author: expected text, got nothing in row 5"),
    (
        "classify",
        SPLIT_AUTHORS,
        {"group_column": "author"},
        "author: expected each group in one split, got several in row 1, 4",
    ),
    ("classify", GOOD.replace(",b,", ",a,"), {}, "label: expected two labels or more in train, got a"),
    (
        "classify",
        "text,label,split\n,a,train\n,b,test\n",
        SKIP,
        "expected rows in train, val and test, got none in train of 0; dropped: 2 empty_text",
    ),
    ("instruct", "question,answer\n1?,2\n", DRAWN, "expected columns prompt, completion, got question, answer"),
    ("instruct", "prompt,completion\n1?,2\n2?,\n", DRAWN, "completion: expected text, got nothing in row 2"),
    (
        "instruct",
        '{"instruction": null, "input": "", "output": "1"}\n',
        DRAWN | ALPACA,
        "instruction: expected text, got nothing in row 1",
    ),
    (
        "instruct",
        "".join(f'{{"messages": "hello {n}"}}\n' for n in range(5)),
        DRAWN | MESSAGES,
        "row 1: messages: expected a list of messages, got text 'hello 0'",
    ),
    ("instruct", "row\n1?\n", RESERVED, "expected columns of other names than split and row, got row"),
]


@pytest.mark.parametrize(("kind", "content", "changes", "line"), BROKEN)
def test_a_broken_file_is_one_line(tmp_path, make_task, kind, content, changes, line):
    path = tmp_path / ("rows.jsonl" if content.startswith("{") else "rows.csv")
    path.write_text(content)
    task = make_task(kind, {"data": str(path)} | changes)
    with pytest.raises(UserError) as caught:
        read_classify(path, task, 1) if kind == "classify" else read_conversations(path, task, 1)
    assert str(caught.value) == f"{path}: {line}"
