"""Labeled rows are read as they were written; invalid ones are named in one line, or dropped and counted."""

import json
from pathlib import Path
from typing import Any, NamedTuple

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
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        case suffix:
            pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


@pytest.fixture(params=SUFFIXES)
def suffix(request) -> str:
    return request.param


@pytest.fixture
def read(make_task):
    """Read a file by a task with changed keys; seed 1."""

    def read_file(path: Path, seed: int = 1, **changes):
        return read_classify(path, make_task("classify", changes), seed)

    return read_file


def many(n: int = 200, **columns: Any) -> list[dict]:
    rows = [{"text": f"text {number}", "label": "abc"[number % 3], "of": f"{number // 4}"} for number in range(n)]
    return [row | {key: value(number) for key, value in columns.items()} for number, row in enumerate(rows)]


def test_every_value_is_the_text_that_was_written(tmp_path, suffix, read):
    renamed = [{"created_at": row["text"], "date": row["label"], "fold": row["split"], "weight": "3"} for row in ROWS]
    labeled = read(
        write(tmp_path / f"rows{suffix}", renamed),
        text_columns=["created_at"],
        label_column="date",
        split_column="fold",
    )
    found = labeled.table
    rows = zip(found["texts"], found["labels"], found["split"], strict=True)
    assert [{"text": texts[0], "label": labels[0], "split": split} for texts, labels, split in rows] == ROWS
    assert found["row"].tolist() == [1, 2, 3, 4, 5]
    separators = {".csv": "commas", ".tsv": "tabs"}
    told = {"dialect": f"separated by {separators[suffix]}, quotes enclose cells"} if suffix in separators else {}
    assert labeled.counts == {"dropped": {}} | told


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_without_a_header_columns_have_numbers(tmp_path, read, name):
    separator = "," if name == "rows.csv" else "\t"
    (tmp_path / name).write_text("".join(f"{'ab'[n % 2]}{separator}text {n}\n" for n in range(40)))
    labeled = read(tmp_path / name, header=False, text_columns=["2"], label_column="1", split_column=None)
    assert sorted(labeled.table["row"]) == list(range(1, 41))
    assert labeled.table.loc[labeled.table["row"] == 5, "texts"].tolist() == [["text 4"]]


@pytest.mark.parametrize("as_list", [False, True])
def test_two_texts_and_any_number_of_labels(tmp_path, suffix, read, as_list):
    given = [["b", "a"], [], ["a"], ["a", "b"], ["b"]]
    as_list = as_list and suffix in (".jsonl", ".parquet")
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
    "empty_text": {"text": " "},
    "empty_label": {"label": ""},
    "unknown_split": {"split": "fourth"},
    "empty_split": {"split": ""},
    "label_not_in_train": {"label": "new", "split": "test"},
    "rare_label": {"label": "new", "split": "train"},
    "conflicting_labels": {"text": "text 3", "label": "other"},
    "in_two_splits": {"text": "text 0", "split": "test", "label": "a"},
}


@pytest.mark.parametrize("reason", DROPPED)
def test_an_invalid_row_fails_or_is_dropped_and_counted(tmp_path, read, reason):
    rows = many(48, split=lambda n: ["train", "train", "val", "test"][n % 4])
    rows.append(rows[4] | {"text": "the last one", "split": "train"} | DROPPED[reason])
    path = write(tmp_path / "rows.csv", rows)
    numbers = {"in_two_splits": "1", "conflicting_labels": "4, 49"}.get(reason, "49")
    with pytest.raises(UserError, match=f"^[^\n]*row {numbers}$"):
        read(path, min_rows_per_label=2)
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


class Broken(NamedTuple):
    content: str | bytes
    line: str  # after the file's name
    changes: dict[str, Any] = {}
    suffix: str = ".csv"


DRAWN = {"split_column": None}
GOOD = "text,label,split\none,a,train\ntwo,b,train\nthree,a,val\nfour,b,test\n"
GROUPED = DRAWN | {"group_column": "author"}
ANY = DRAWN | {"label_separator": "|"}
CLASSIFY = {
    "header alone": Broken("text,label,split\n", "expected labeled rows, got none"),
    "no lines": Broken("\n\n", "expected labeled rows, got none", suffix=".jsonl"),
    "field count": Broken(GOOD + "five,a\n", "line 6: expected 3 fields, as in the first row, got 2"),
    "missing column": Broken(GOOD, "expected columns stars, got text, label, split", {"label_column": "stars"}),
    "same column": Broken(GOOD, "expected different columns, got text, text, split", {"label_column": "text"}),
    "two of a name": Broken(
        "text,text,label,split\none,uno,a,train\n", "text: expected one column of this name, got several"
    ),
    "empty text": Broken(GOOD.replace("two", "  "), "text: expected text, got nothing in row 2"),
    "empty labels": Broken(
        GOOD + "five,,train\n" * 7, "label: expected text, got nothing in row 5, 6, 7, 8, 9 and 2 more"
    ),
    "list of texts": Broken(
        '{"text": ["a"], "label": "a"}\n', "text: expected text, got a list or a mapping in row 1", DRAWN, ".jsonl"
    ),
    "list of labels": Broken(
        '{"text": "one", "label": ["a"]}\n',
        "label: expected one label, got a list (see label_separator) in row 1",
        DRAWN,
        ".jsonl",
    ),
    "nested labels": Broken(
        '{"text": "one", "label": {"a": 1}}\n{"text": "two", "label": [["a"], "b"]}\n',
        "label: expected labels, got a mapping or a list within a list in row 1, 2",
        ANY,
        ".jsonl",
    ),
    "split name": Broken(GOOD.replace("test", "holdout"), "split: expected train, val or test, got holdout in row 4"),
    "two splits": Broken(
        GOOD + "one,a,test\n", "split: expected each text in one split, got it in a later one too, in row 1"
    ),
    "two labels": Broken(
        GOOD + "one,b,train\n", "label: expected the same label for the same text, got several in row 1, 5"
    ),
    "one split": Broken(
        GOOD.replace("test", "train").replace("val", "train"),
        "expected rows in train, val and test, got none in val of 4",
    ),
    "few groups": Broken(
        "text,label,author\none,a,x\ntwo,b,x\nthree,a,y\nfour,b,y\n",
        "expected rows in train, val and test, got none in val of 4 in 2 groups",
        GROUPED,
    ),
    "empty group": Broken(
        "text,label,author\none,a,x\ntwo,b,\n", "author: expected text, got nothing in row 2", GROUPED
    ),
    "group in two splits": Broken(
        "text,label,split,author\none,a,train,x\ntwo,b,train,y\nthree,a,val,z\nfour,b,test,x\n",
        "author: expected each group in one split, got several in row 1, 4",
        {"group_column": "author"},
    ),
    "one label": Broken(GOOD.replace(",b,", ",a,"), "label: expected two labels or more in train, got a"),
    "rare label": Broken(
        GOOD + "five,a,train\n",
        "label: expected at least 2 rows of each label in train, got 1 of b, in row 2, 4",
        {"min_rows_per_label": 2},
    ),
    "label of two lines": Broken(
        GOOD.replace("b,test", '"b\nand more",test'),
        "label: expected labels that train has, got 'b\\nand more' in row 4",
    ),
    "nothing left": Broken(
        "text,label,split\n,a,train\n,b,test\n",
        "expected rows in train, val and test, got none in train of 0; dropped: 2 empty_text",
        {"on_error": "skip"},
    ),
}
ALPACA = {"kind": "alpaca", "instruction": "instruction", "input": "input", "output": "output"}
INSTRUCT = {
    "missing columns": Broken("question,answer\n1?,2\n", "expected columns prompt, completion, got question, answer"),
    "empty answer": Broken("prompt,completion\n1?,2\n2?,\n", "completion: expected text, got nothing in row 2"),
    "null": Broken(
        '{"instruction": null, "input": "", "output": "1"}\n',
        "instruction: expected text, got nothing in row 1",
        {"rows": ALPACA},
        ".jsonl",
    ),
    "text for messages": Broken(
        "".join(f'{{"messages": "hello {n}"}}\n' for n in range(5)),
        "row 1: messages: expected a list of messages, got text 'hello 0'",
        {"rows": {"kind": "messages", "messages": "messages"}},
        ".jsonl",
    ),
    "reserved name": Broken(
        "row,completion\n1?,2\n",
        "expected columns of other names than split and row, got row",
        {"rows": {"kind": "prompt_completion", "prompt": "row", "completion": "completion"}},
    ),
}


@pytest.mark.parametrize(
    ("kind", "name"), [("classify", name) for name in CLASSIFY] + [("instruct", name) for name in INSTRUCT]
)
def test_a_broken_file_is_one_line(tmp_path, make_task, kind, name):
    broken = (CLASSIFY if kind == "classify" else DRAWN | INSTRUCT)[name]
    path = tmp_path / f"rows{broken.suffix}"
    path.write_bytes(broken.content if isinstance(broken.content, bytes) else broken.content.encode())
    changes = broken.changes if kind == "classify" else DRAWN | broken.changes
    task = make_task(kind, {"data": str(path)} | changes)
    with pytest.raises(UserError) as caught:
        read_classify(path, task, 1) if kind == "classify" else read_conversations(path, task, 1)
    assert str(caught.value) == f"{path}: {broken.line}"
