"""Predictions for a file are the classifier's, whatever rows stand beside a row."""

import math
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import pipeline
from transformers.utils import logging
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.corpus.readers.rows import SUFFIXES, open_rows
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.finetune.classify.predict import Predictions, add_columns, predict_file
from llm.model.classifier import Classifier

LABELS = ["rain", "river", "sun"]
TEXTS = [f"The {'rain falls ' * (number % 5)}{number}" for number in range(23)]


@pytest.fixture
def write(tmp_path, draw_gpt, small_tokenizer_file):
    """A writer of a classifier's folder with drawn scores."""

    def write_one(columns: tuple[str, ...] = ("text",), separator: str | None = None) -> Path:
        model = Classifier(draw_gpt(), 3)
        torch.nn.init.normal_(model.score.weight, std=0.3, generator=torch.Generator().manual_seed(2))
        info = ClassifierInfo(LABELS, list(columns), separator, 16)
        write_classifier(tmp_path / "folder", model, small_tokenizer_file, info)
        return tmp_path / "folder"

    return write_one


def _file(folder: Path, **columns: list[str]) -> Path:
    pd.DataFrame(columns).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


def test_predictions_are_those_of_transformers(write, plain_cpu, tmp_path):
    folder, file = write(), _file(tmp_path, text=TEXTS)
    logging.disable_progress_bar()
    classify = pipeline("text-classification", model=str(folder), dtype=torch.float32, top_k=None)
    predictions = predict_file(folder, file, None, [], plain_cpu, every_label=True)
    assert predictions == Predictions(file.with_name("rows.predictions.csv"), 23, 0)
    rows = _read(predictions.out)
    assert rows["text"].tolist() == TEXTS
    assert rows["prediction"].nunique() > 1
    for row, scores in zip(rows.to_dict("records"), classify(TEXTS, truncation=True), strict=True):
        assert row["prediction"] == scores[0]["label"]
        assert row["probability"] == row[f"probability_{row['prediction']}"]
        for score in scores:
            assert row[f"probability_{score['label']}"] == pytest.approx(score["score"], abs=2e-6)
    again = _read(predict_file(folder, file, tmp_path / "again.csv", [], plain_cpu, chunk_rows=5).out)
    assert again["prediction"].tolist() == rows["prediction"].tolist()
    for out in (file, tmp_path / "out.jsonl"):
        with pytest.raises(UserError, match=r"expected another \.csv file than"):
            predict_file(folder, file, out, [], plain_cpu)


def test_a_row_without_text_has_no_prediction_and_is_counted(write, tmp_path, plain_cpu):
    file = _file(tmp_path, a=["x", "", "x", "x"], b=["y", "y", " \n", "z"])
    predictions = predict_file(write(("a", "b")), file, None, [], plain_cpu)
    assert (predictions.rows, predictions.without_text) == (4, 2)
    for column in ("prediction", "probability"):
        assert (_read(predictions.out)[column] != "").tolist() == [True, False, False, True]


def test_any_number_of_labels_is_predicted_with_the_separator(write, tmp_path, plain_cpu):
    folder, file = write(separator=" + "), _file(tmp_path, text=TEXTS)
    rows = _read(predict_file(folder, file, None, [], plain_cpu, every_label=True).out)
    for row in rows.to_dict("records"):
        each = {label: row[f"probability_{label}"] for label in LABELS}
        assert row["prediction"] == " + ".join(label for label, of in each.items() if of > 0.5)
        assert row["probability"] == pytest.approx(math.prod(max(of, 1 - of) for of in each.values()), abs=1e-5)
    assert rows["prediction"].str.contains(" + ", regex=False).any()


def test_other_columns_may_be_named_but_as_many(write, tmp_path, plain_cpu):
    folder = write(("a", "b"))
    same = _read(predict_file(folder, _file(tmp_path, a=["y"], b=["x"]), None, [], plain_cpu).out)
    file = _file(tmp_path, one=["x"], two=["y"])
    named = _read(predict_file(folder, file, None, ["two", "one"], plain_cpu).out)
    assert named["probability"].tolist() == same["probability"].tolist()
    with pytest.raises(UserError, match=r"--text: expected 2 of them, .*, got one"):
        predict_file(folder, file, None, ["one"], plain_cpu)


@pytest.mark.usefixtures("plain_cpu")
def test_the_command_says_where_the_rows_are_and_how_many(write, tmp_path):
    (tmp_path / "rows.tsv").write_text("1\tThe rain\n2\t\n")
    folder = str(write())
    command = ["predict", folder, str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "out.tsv")]
    result = CliRunner().invoke(app, [*command, "--text", "2", "--no-header", "--all"], catch_exceptions=False)
    assert "out.tsv: 2 rows, 1 of them without text and prediction" in result.stdout
    first, second = (tmp_path / "out.tsv").read_text().splitlines()
    assert (len(first.split("\t")), second) == (7, "2" + "\t" * 6)
    content = "id;text\n1;où êtes-vous allés à Noël ?\n2;déjà vu, près du château\n"
    (tmp_path / "rows.csv").write_bytes(content.encode("cp1252"))
    command = ["predict", folder, str(tmp_path / "rows.csv")]
    assert "rows.csv: detected the encoding cp1252, guessed, confidence " in CliRunner().invoke(app, command).stdout
    assert "detected the encoding" not in CliRunner().invoke(app, [*command, "--encoding", "cp1252"]).stdout


HARD = ["plain", 'a "quoted", text', "two\nlines\r\nand more", "", "déjà 🙂", " spaces ", "'", "\\N", "a\tb"]
ADDED = ["upper", "length"]


def upper(texts: list[list[str]]) -> list[list[str | float | None]]:
    """The first text in capitals and its length; nothing where there is no text."""
    return [[row[0].upper(), float(len(row[0]))] if row[0] else [None, None] for row in texts]


def _write(table: pd.DataFrame, file: Path) -> None:
    match file.suffix:
        case ".parquet":
            table.to_parquet(file)
        case ".csv" | ".tsv":
            table.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
        case _:
            table.to_json(file, orient="records", lines=file.suffix != ".json")


@pytest.mark.parametrize("chunk_rows", [1, 4])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_added_columns_leave_the_others_as_they_were(tmp_path, suffix, chunk_rows):
    table = pd.DataFrame({"id": [f"{number:03}" for number in range(len(HARD))], "text": HARD})
    file, out = tmp_path / f"rows{suffix}", tmp_path / f"new/out{suffix}"
    _write(table, file)
    add_columns(file, out, ["text"], ADDED, upper, chunk_rows=chunk_rows)
    with open_rows(out) as rows:
        found = [list(row.values.values()) if isinstance(row.values, dict) else row.values for row in rows]
    expected = [[*row, *upper([[row[1]]])[0]] for row in table.to_numpy().tolist()]
    if suffix in (".csv", ".tsv"):
        expected = [["" if value is None else str(value) for value in row] for row in expected]
    assert found == expected
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# A file, its content, its texts and whether it has a header, the output.
OUTPUTS = [
    ("a.tsv", b'ham\t"hi\n', "2", 'ham\t"hi\t"HI\t3.0\n'),
    ("a.csv", '\ufefftext,n\r\n"a\r\nb",1\r\n'.encode(), "text", 'text,n,upper,length\n"a\r\nb",1,"A\r\nB",4.0\n'),
    ("a.csv", 'id;text\r\n1;"où; là"\r\n'.encode("utf-16"), "text", 'id;text;upper;length\n1;"où; là";"OÙ; LÀ";6.0\n'),
    ("a.csv", b"text,,\na,,\n", "text", "text,,,upper,length\na,,,A,1.0\n"),
    ("a.jsonl", b'{"text": 2.0, "n": NaN}\n', "text", '{"text": 2.0, "n": NaN, "upper": "2", "length": 1.0}\n'),
    ("a.jsonl", b"", "text", ""),
    ("a.json", b'[{"text": "a"}]', "text", '[\n{"text": "a", "upper": "A", "length": 1.0}\n]\n'),
    ("a.json", b"[]", "text", "[\n]\n"),
]


@pytest.mark.parametrize(("name", "content", "text", "expected"), OUTPUTS)
def test_the_output_is_separated_and_quoted_as_the_input(tmp_path, name, content, text, expected):
    (tmp_path / name).write_bytes(content)
    out = tmp_path / f"out{Path(name).suffix}"
    add_columns(tmp_path / name, out, [text], ADDED, upper, header=text == "text")
    assert out.read_bytes().decode() == expected


def test_the_schema_of_parquet_stays(tmp_path):
    kinds = pa.schema([pa.field("text", pa.large_string()), pa.field("n", pa.int8())], metadata={"from": "here"})
    table = pa.table({"text": ["a", None, "b"], "n": [1, None, 3]}, kinds)
    for part in (table, table.slice(0, 0)):
        pq.write_table(part, tmp_path / "rows.parquet")
        add_columns(tmp_path / "rows.parquet", tmp_path / "out.parquet", ["text"], ADDED, upper, chunk_rows=1)
        found = pq.read_table(tmp_path / "out.parquet")
        assert found.select(["text", "n"]).equals(part, check_metadata=True)
        assert found["upper"].to_pylist() == ["A", None, "B"][: len(part)]
        assert found.schema.field("length").type == pa.float64()


REFUSED = [
    ("rows.csv", "title,body\na,b\n", "rows.csv: expected columns text, got title, body"),
    ("rows.csv", "text,upper\na,b\n", "rows.csv: expected no column upper, which is to be added, got one"),
    ("rows.csv", "text,text\na,b\n", "rows.csv: text: expected one column of this name, got several"),
    ("rows.csv", "text,n\na,1\nb,2\nc\n", "rows.csv: line 4: expected 2 fields, as in the first row, got 1"),
    ("rows.txt", "text\na\n", "rows.txt: expected a .csv, .tsv, .jsonl, .ndjson, .json, .parquet file, got .txt"),
    ("rows.jsonl", '{"text": "a"}\n{"texts": "b"}\n', "rows.jsonl: expected columns text, got texts"),
    ("rows.jsonl", '{"text": ["a"]}\n', "rows.jsonl: line 1: text: expected text, got ['a']"),
    ("rows.tsv", 'text\tn\n"a\t1\n', "rows.tsv: expected values without quotes"),
    ("rows.parquet", "PAR1 broken", "rows.parquet: expected a whole Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "line"), REFUSED)
def test_a_refused_file_is_one_line_and_nothing_is_written(tmp_path, name, content, line):
    (tmp_path / name).write_text(content)
    out = tmp_path / f"out{Path(name).suffix}"
    out.write_text("as it was")
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path / line))}[^\n]*$"):
        add_columns(tmp_path / name, out, ["text"], ADDED, lambda texts: [["two\nlines", 1.0]], chunk_rows=1)
    assert out.read_text() == "as it was"
    assert {path.name for path in tmp_path.iterdir()} == {name, out.name}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_killed_command_leaves_nothing(tmp_path, suffix):
    sizes, file = [], tmp_path / f"rows{suffix}"

    def fail(texts: list[list[str]]) -> list[list[str | float | None]]:
        sizes.append(len(texts))
        if texts[0][0] == "g":
            raise KeyboardInterrupt
        return upper(texts)

    _write(pd.DataFrame({"text": list("abcdefg")}), file)
    with pytest.raises(KeyboardInterrupt):
        add_columns(file, tmp_path / f"out{suffix}", ["text"], ADDED, fail, chunk_rows=3)
    assert sizes == [3, 3, 1]
    assert [*tmp_path.iterdir()] == [file]
