"""Predictions for a file are the classifier's, whatever rows stand beside a row."""

import csv
from pathlib import Path

import pytest
import torch
from transformers import pipeline
from transformers.utils import logging
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.export.hf.classifier import ClassifierInfo, write_classifier
from llm.finetune.classify.predict import Predictions, predict_file
from llm.model.classifier import Classifier

TEXTS = [f"The {'rain falls ' * (number % 5)}{number}" for number in range(23)]


@pytest.fixture
def write(tmp_path, draw_gpt, small_tokenizer_file):
    """A writer of a classifier's folder with drawn scores of rain, river and sun."""

    def write_one(columns: tuple[str, ...] = ("text",), separator: str | None = None) -> Path:
        model = Classifier(draw_gpt(), 3)
        torch.nn.init.normal_(model.score.weight, std=0.3, generator=torch.Generator().manual_seed(2))
        info = ClassifierInfo(["rain", "river", "sun"], list(columns), separator, 16)
        write_classifier(tmp_path / "folder", model, small_tokenizer_file, info)
        return tmp_path / "folder"

    return write_one


@pytest.fixture
def file(tmp_path) -> Path:
    _write(tmp_path / "rows.csv", ["id", "text"], [[str(number), text] for number, text in enumerate(TEXTS)])
    return tmp_path / "rows.csv"


def _write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([header, *rows])


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_predictions_are_those_of_transformers(write, file, plain_cpu):
    folder = write()
    logging.disable_progress_bar()
    classify = pipeline("text-classification", model=str(folder), dtype=torch.float32, top_k=None)
    predictions = predict_file(folder, file, None, [], plain_cpu, every_label=True)
    assert predictions == Predictions(file.with_name("rows.predictions.csv"), 23, 0)
    rows = _read(predictions.out)
    assert [row["text"] for row in rows] == TEXTS
    assert len({row["prediction"] for row in rows}) > 1
    for row, scores in zip(rows, classify(TEXTS, truncation=True), strict=True):
        assert row["prediction"] == scores[0]["label"]
        for score in scores:
            assert float(row[f"probability_{score['label']}"]) == pytest.approx(score["score"], abs=2e-6)
        assert row["probability"] == row[f"probability_{row['prediction']}"]


def test_rows_are_the_same_whatever_the_chunk(write, file, plain_cpu, tmp_path):
    folder, found = write(), []
    for chunk_rows in (1, 5, 100):
        out = tmp_path / f"{chunk_rows}.csv"
        predict_file(folder, file, out, [], plain_cpu, chunk_rows=chunk_rows)
        found.append(_read(out))
    for rows in found[1:]:
        assert [row["prediction"] for row in rows] == [row["prediction"] for row in found[0]]
        for row, other in zip(rows, found[0], strict=True):
            assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=2e-6)


def test_a_row_without_text_has_no_prediction_and_is_counted(write, tmp_path, plain_cpu):
    _write(tmp_path / "rows.csv", ["a", "b"], [["x", "y"], ["", "y"], ["x", " \n"], ["x", "z"]])
    predictions = predict_file(write(("a", "b")), tmp_path / "rows.csv", None, [], plain_cpu)
    assert (predictions.rows, predictions.without_text) == (4, 2)
    rows = _read(predictions.out)
    assert [bool(row["prediction"]) for row in rows] == [True, False, False, True]
    assert [bool(row["probability"]) for row in rows] == [True, False, False, True]


def test_any_number_of_labels_is_predicted_with_the_separator(write, file, plain_cpu):
    rows = _read(predict_file(write(separator=" + "), file, None, [], plain_cpu, every_label=True).out)
    for row in rows:
        each = {label: float(row[f"probability_{label}"]) for label in ("rain", "river", "sun")}
        assert row["prediction"] == " + ".join(label for label, of in each.items() if of > 0.5)
        product = 1.0
        for of in each.values():
            product *= max(of, 1 - of)
        assert float(row["probability"]) == pytest.approx(product, abs=1e-5)
    assert any(" + " in row["prediction"] for row in rows)


def test_other_columns_may_be_named_but_as_many(write, tmp_path, plain_cpu):
    folder = write(("a", "b"))
    _write(tmp_path / "rows.csv", ["one", "two"], [["x", "y"]])
    named = predict_file(folder, tmp_path / "rows.csv", None, ["two", "one"], plain_cpu)
    _write(tmp_path / "same.csv", ["a", "b"], [["y", "x"]])
    same = predict_file(folder, tmp_path / "same.csv", None, [], plain_cpu)
    assert _read(named.out)[0]["probability"] == _read(same.out)[0]["probability"]
    with pytest.raises(UserError, match=r"--text: expected 2 of them, .*, got one"):
        predict_file(folder, tmp_path / "rows.csv", None, ["one"], plain_cpu)
    with pytest.raises(UserError, match="expected columns a, b, got one, two"):
        predict_file(folder, tmp_path / "rows.csv", None, [], plain_cpu)


@pytest.mark.usefixtures("plain_cpu")
def test_the_command_says_where_the_rows_are_and_how_many(write, tmp_path):
    (tmp_path / "rows.tsv").write_text("1\tThe rain\n2\t\n")
    command = ["predict", str(write()), str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "out.tsv")]
    result = CliRunner().invoke(app, [*command, "--text", "2", "--no-header", "--all"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "out.tsv: 2 rows, 1 of them without text and prediction" in result.stdout
    first, second = (tmp_path / "out.tsv").read_text().splitlines()
    assert len(first.split("\t")) == 7
    assert second == "2" + "\t" * 6


@pytest.mark.usefixtures("plain_cpu")
def test_the_command_tells_of_a_guessed_encoding_and_refuses_half_a_character(write, tmp_path):
    (tmp_path / "rows.csv").write_bytes(
        "id;text\n1;où êtes-vous allés à Noël ?\n2;déjà vu, près du château\n".encode("cp1252")
    )
    command = ["predict", str(write()), str(tmp_path / "rows.csv")]
    assert "rows.csv: detected the encoding cp1252, guessed, confidence " in CliRunner().invoke(app, command).stdout
    assert "detected the encoding" not in CliRunner().invoke(app, [*command, "--encoding", "cp1252"]).stdout
    (tmp_path / "rows.jsonl").write_text('{"text": "a\\ud83d"}\n')
    result = CliRunner().invoke(app, ["predict", str(write()), str(tmp_path / "rows.jsonl")])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith(
        r"rows.jsonl: line 1: expected Unicode text, got half a surrogate pair, \ud83d"
    )
