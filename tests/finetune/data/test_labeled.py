"""Labeled rows come in as they are written, and a bad file says where it is bad."""

import json
from pathlib import Path

import pandas as pd
import pytest

from llm.core.errors import UserError
from llm.finetune.data.labeled import read_classify, read_records

ROWS = [
    {"text": "one", "label": "1", "split": "train"},
    {"text": "two, and a comma", "label": "NA", "split": "val"},
    {"text": 'three "quoted"\nlines', "label": "null", "split": "test"},
    {"text": "007", "label": "NA", "split": "train"},
    {"text": "nan", "label": "null", "split": "train"},
]

SPLIT = ["train", "val", "test"]


def _write(path: Path, rows: list[dict]) -> Path:
    match path.suffix:
        case ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        case ".tsv":
            pd.DataFrame(rows).to_csv(path, index=False, sep="\t")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture(params=[".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def ending(request) -> str:
    return request.param


@pytest.fixture
def read(make_task):
    """Reads a file by a task with changed keys; seed 1."""

    def read_file(path: Path, **changes):
        return read_classify(path, make_task("classify", changes), 1)

    return read_file


@pytest.fixture
def error(read):
    """The one line that a file ends in."""

    def tell(path: Path, **changes) -> str:
        with pytest.raises(UserError) as caught:
            read(path, **changes)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        return message

    return tell


def _plain(labeled, text: str = "text", label: str = "label", split: str = "split") -> list[dict]:
    """The rows as they were written, of one text and one label."""
    rows = labeled.table.to_dict("records")
    return [{text: row["texts"][0], label: row["labels"][0], split: row["split"]} for row in rows]


def test_every_value_is_the_text_that_was_written(tmp_path, ending, read):
    labeled = read(_write(tmp_path / f"rows{ending}", ROWS))
    assert _plain(labeled) == ROWS
    assert labeled.table["row"].tolist() == [1, 2, 3, 4, 5]
    marks = {".csv": "commas", ".tsv": "tabs"}
    told = {"dialect": f"separated by {marks[ending]}, quotes enclose cells"} if ending in marks else {}
    assert labeled.counts == {"skipped": {}} | told


def test_columns_of_other_names_are_found(tmp_path, ending, read):
    renamed = [{"created_at": row["text"], "date": row["label"], "fold": row["split"], "weight": "3"} for row in ROWS]
    path = _write(tmp_path / f"rows{ending}", renamed)
    assert _plain(read(path, text_columns=["created_at"], label_column="date", split_column="fold")) == ROWS


@pytest.mark.parametrize("separator", [",", "\t"])
def test_without_a_header_columns_have_numbers(tmp_path, read, separator):
    path = tmp_path / ("rows.csv" if separator == "," else "rows.tsv")
    path.write_text("".join(f"{row['label']}{separator}text {n}\n" for n, row in enumerate(ROWS * 8)))
    labeled = read(path, header=False, text_columns=["2"], label_column="1", split_column=None)
    assert sorted(labeled.table["row"]) == list(range(1, 41))
    assert labeled.table.loc[labeled.table["row"] == 5, "texts"].tolist() == [["text 4"]]


def test_quotes_are_text_in_a_plain_tsv(tmp_path, read):
    path = tmp_path / "rows.tsv"
    lines = [f'{"ham" if n % 2 else "spam"}\t"text {n}' for n in range(40)]
    path.write_text("\n".join(lines))
    labeled = read(path, header=False, text_columns=["2"], label_column="1", split_column=None)
    assert sorted(texts[0] for texts in labeled.table["texts"]) == sorted(f'"text {n}' for n in range(40))


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mark_at_the_start_and_other_line_ends_change_nothing(tmp_path, read, bom, end):
    path = tmp_path / "rows.csv"
    rows = [
        f"déjà {n},{'a' if n % 2 else 'b'},{split}" for n, split in enumerate(["train", "train", "val", "test"] * 3)
    ]
    path.write_bytes((bom + end.join(["text,label,split", *rows])).encode())
    assert [row["text"] for row in _plain(read(path))] == [f"déjà {n}" for n in range(12)]


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_numbers_and_truth_become_text(tmp_path, kind, read):
    for values, texts in (([0, 1], "01"), ([0.0, 1.0], "01"), ([False, True], ("false", "true"))):
        rows = [row | {"label": values[n % 2]} for n, row in enumerate(ROWS * 2)]
        rows = [row | {"text": f"{row['text']} {n}"} for n, row in enumerate(rows)]
        labeled = read(_write(tmp_path / f"rows{kind}", rows))
        assert [row["label"] for row in _plain(labeled)] == [texts[n % 2] for n in range(10)]


def test_two_texts_a_row(tmp_path, ending, read):
    rows = [row | {"more": f"{row['text']}!"} for row in ROWS]
    labeled = read(_write(tmp_path / f"rows{ending}", rows), text_columns=["more", "text"])
    assert labeled.table["texts"].tolist() == [[f"{row['text']}!", row["text"]] for row in ROWS]


@pytest.mark.parametrize("as_list", [False, True])
def test_any_number_of_labels(tmp_path, ending, read, as_list):
    as_list = as_list and ending in (".jsonl", ".parquet")  # a separated file has no lists
    given = [["b", "a"], [], ["a"], ["a", "b"], ["b"]]
    rows = [row | {"label": of if as_list else " | ".join(of)} for row, of in zip(ROWS, given, strict=True)]
    labeled = read(_write(tmp_path / f"rows{ending}", rows), label_separator="|")
    assert labeled.table["labels"].tolist() == [["a", "b"], [], ["a"], ["a", "b"], ["b"]]


def _many(n: int = 200) -> list[dict]:
    return [{"text": f"text {number}", "label": "abc"[number % 3], "of": f"{number // 4}"} for number in range(n)]


def test_without_a_split_column_every_label_has_its_share(tmp_path, ending, read):
    table = read(_write(tmp_path / f"rows{ending}", _many()), split_column=None).table
    share = table.assign(label=table["labels"].str[0]).groupby("label")["split"].value_counts(normalize=True)
    for label in "abc":
        assert share[label].to_dict() == pytest.approx({"train": 0.7, "test": 0.2, "val": 0.1}, abs=0.02)


def test_the_seed_decides_on_the_splits(tmp_path, make_task):
    path = _write(tmp_path / "rows.csv", _many())
    task = make_task("classify", {"split_column": None})
    one, same, other = (read_classify(path, task, seed).table["split"].tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_a_group_stays_in_one_split(tmp_path, read):
    path = _write(tmp_path / "rows.csv", _many())
    table = read(path, split_column=None, group_column="of").table
    groups = (table["row"] - 1) // 4
    assert table.groupby(groups)["split"].nunique().max() == 1
    assert set(table["split"]) == {"train", "val", "test"}


def test_a_mapping_for_labels_is_skipped_and_counted(tmp_path, read):
    rows = [row | {"label": [row["label"]]} for row in _many(40)]
    rows[7]["label"] = {"a": 1, "b": 0}
    rows[9]["label"] = [["a"], "b"]
    labeled = read(_write(tmp_path / "rows.jsonl", rows), split_column=None, label_separator="|", on_error="skip")
    assert labeled.counts["skipped"] == {"nested_labels": 2}
    assert len(labeled.table) == 38


def test_the_first_of_two_texts_may_be_the_group(tmp_path, ending, read):
    rows = [row | {"texts": f"premise {n // 4}"} for n, row in enumerate(_many())]
    changes = {"text_columns": ["texts", "text"], "group_column": "texts", "split_column": None}
    table = read(_write(tmp_path / f"rows{ending}", rows), **changes).table
    assert table.groupby(table["texts"].str[0])["split"].nunique().max() == 1
    assert set(table["split"]) == {"train", "val", "test"}


def test_the_same_text_again_is_dropped_and_counted(tmp_path, read):
    rows = _many(60) + [row | {"text": f"  {row['text']} "} for row in _many(5)]
    labeled = read(_write(tmp_path / "rows.csv", rows), split_column=None)
    assert labeled.counts["dropped_same_row_again"] == 5
    assert labeled.table["row"].max() == 60


def test_other_names_of_val_are_known_and_a_missing_one_is_drawn_from_train(tmp_path, read):
    rows = [row | {"split": "test" if n % 5 == 0 else "train"} for n, row in enumerate(_many(100))]
    labeled = read(_write(tmp_path / "rows.csv", rows))
    assert labeled.counts["drawn_from_train"]["val"] == (labeled.table["split"] == "val").sum() > 0
    assert (labeled.table["split"] == "test").sum() == 20
    rows = [row | {"split": ["train", "validation", "test"][n % 3]} for n, row in enumerate(_many(99)[::-1])]
    rows = [row | {"label": "ab"[n // 3 % 2]} for n, row in enumerate(rows)]
    table = read(_write(tmp_path / "rows.csv", rows)).table
    assert table["split"].value_counts().to_dict() == {"train": 33, "val": 33, "test": 33}


@pytest.mark.parametrize("missing", ["val", "test"])
def test_a_split_that_is_drawn_from_train_shares_no_text_with_it(tmp_path, read, missing):
    given = "test" if missing == "val" else "val"
    rows = [row | {"split": given if n % 5 == 0 else "train"} for n, row in enumerate(_many(100))]
    again = [row | {"text": f" {row['text']}"} for row in rows]
    labeled = read(_write(tmp_path / "rows.csv", rows + again))
    texts = labeled.table["texts"].str[0].str.strip()
    assert labeled.table.groupby(texts)["split"].nunique().max() == 1
    assert labeled.counts["dropped_same_row_again"] == 80
    assert labeled.table["split"].value_counts()[given] == 40  # the file's own split stays as it is


SKIPPED = {
    "empty_text": {"text": " "},
    "empty_label": {"label": ""},
    "unknown_split": {"split": "fourth"},
    "empty_split": {"split": ""},
    "label_not_in_train": {"label": "new", "split": "test"},
    "rare_label": {"label": "new", "split": "train"},
    "conflicting_labels": {"text": "text 3", "label": "other"},
    "in_two_splits": {"text": "text 0", "split": "test", "label": "a"},
}


@pytest.mark.parametrize("reason", SKIPPED)
def test_what_is_wrong_with_a_row_fails_or_is_skipped_and_counted(tmp_path, ending, read, error, reason):
    rows = [row | {"split": ["train", "train", "val", "test"][n % 4]} for n, row in enumerate(_many(48))]
    rows.append(rows[4] | {"text": "the last one", "split": "train"} | SKIPPED[reason])
    path = _write(tmp_path / f"rows{ending}", rows)
    wrong = {"in_two_splits": "row 1", "conflicting_labels": "row 4, 49"}.get(reason, "row 49")
    assert error(path, min_rows_per_label=2).endswith(wrong)
    labeled = read(path, min_rows_per_label=2, on_error="skip")
    n = 2 if reason == "conflicting_labels" else 1
    assert labeled.counts["skipped"] == {reason: n}
    assert len(labeled.table) == 49 - n


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, ending, error):
    message = error(_write(tmp_path / f"rows{ending}", ROWS), label_column="answer")
    assert "answer is not among" in message
    assert "text, label, split" in message


@pytest.mark.parametrize("column", ["text", "label", "split"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_value_is_named_by_column_and_row(tmp_path, ending, error, column, empty):
    rows = [dict(row) for row in ROWS]
    rows[1][column] = rows[4][column] = empty
    message = error(_write(tmp_path / f"rows{ending}", rows))
    assert f"{column}: " in message
    assert message.endswith("row 2, 5")


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_nothing_in_place_of_a_value_is_named_by_column_and_row(tmp_path, kind, error):
    rows = [dict(row) for row in ROWS]
    rows[2]["label"] = None
    assert error(_write(tmp_path / f"rows{kind}", rows)).endswith("label: wanted text in every row, empty in row 3")


def test_many_empty_rows_are_counted_after_the_first_few(tmp_path, ending, error):
    rows = [row | {"text": ""} for row in ROWS * 4]
    assert error(_write(tmp_path / f"rows{ending}", rows)).endswith("row 1, 2, 3, 4, 5 and 15 more")


def test_a_table_without_rows_is_an_error(tmp_path, ending, error):
    path = tmp_path / f"rows{ending}"
    match ending:
        case ".json":
            path.write_text("[]")
        case ".jsonl":
            path.write_text("")
        case ".parquet":
            pd.DataFrame({"text": [], "label": [], "split": []}, dtype=str).to_parquet(path)
        case _:
            path.write_text("text,label,split\n".replace(",", "\t" if ending == ".tsv" else ","))
    assert "wanted labeled rows, given none" in error(path)


def test_two_splits_without_rows_are_an_error(tmp_path, ending, error):
    rows = [row for row in ROWS if row["split"] == "train"]
    assert "val has none of" in error(_write(tmp_path / f"rows{ending}", rows))


@pytest.mark.parametrize("name", ["rows.txt", "rows.xlsx", "rows"])
def test_a_file_of_another_kind_names_the_kinds_that_are_read(tmp_path, error, name):
    path = tmp_path / name
    path.write_text("text\n")
    assert ".csv, .tsv, .jsonl, .ndjson, .json, .parquet" in error(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path, ending, error):
    assert "there is none" in error(tmp_path / f"rows{ending}")


def test_one_column_in_two_parts_is_an_error(tmp_path, ending, error):
    path = _write(tmp_path / f"rows{ending}", ROWS)
    assert "text, text, split" in error(path, label_column="text")


def test_records_keep_lists_and_texts_as_they_are(tmp_path, make_task):
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "gone"}]
    rows = [{"messages": [*messages, {"role": "user", "content": f"{n}"}], "split": SPLIT[n % 3]} for n in range(9)]
    task = make_task("instruct", {"rows": {"kind": "messages", "messages": "messages"}})
    for kind in (".jsonl", ".parquet"):
        labeled = read_records(_write(tmp_path / f"rows{kind}", rows), task, ["messages"], 1)
        assert labeled.table["messages"].tolist() == [row["messages"] for row in rows]


def test_an_input_may_be_empty_and_same_rows_are_dropped(tmp_path, make_task):
    rows = [{"instruction": "Repeat.", "input": "" if n == 0 else f"word {n}", "output": f"{n}"} for n in range(60)]
    path = _write(tmp_path / "alpaca.jsonl", [*rows, rows[7]])
    task = make_task("instruct", {"split_column": None})
    labeled = read_records(path, task, ["instruction", "input", "output"], 1, frozenset({"input"}))
    assert labeled.table.loc[0, "input"] == ""
    assert labeled.counts == {"skipped": {}, "dropped_same_row_again": 1}
    assert labeled.table["split"].value_counts().to_dict() == {"train": 42, "test": 12, "val": 6}


def test_rows_of_one_prompt_stay_together_where_it_is_the_group(tmp_path, make_task):
    rows = [{"prompt": f"p {n // 4}", "completion": f"c {n}"} for n in range(80)]
    task = make_task("instruct", {"split_column": None, "group_column": "prompt"})
    table = read_records(_write(tmp_path / "rows.jsonl", rows), task, ["prompt", "completion"], 1).table
    assert len(table) == 80
    assert table.groupby("prompt")["split"].nunique().max() == 1
    assert table["prompt"].tolist() == [row["prompt"] for row in rows]


def test_an_output_may_not_be_empty(tmp_path, make_task):
    rows = [{"prompt": f"{n}", "completion": "" if n == 3 else "x", "split": SPLIT[n % 3]} for n in range(9)]
    path = _write(tmp_path / "rows.csv", rows)
    with pytest.raises(UserError, match="completion: wanted text in every row, empty in row 4"):
        read_records(path, make_task("instruct"), ["prompt", "completion"], 1)
    labeled = read_records(path, make_task("instruct", {"on_error": "skip"}), ["prompt", "completion"], 1)
    assert labeled.counts["skipped"] == {"empty_text": 1}
    assert labeled.table["row"].tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
