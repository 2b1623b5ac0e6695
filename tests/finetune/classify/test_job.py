"""A classification task as a whole: its rows are measured alike, and what it exports is what it measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline
from transformers.utils import logging

from llm.core.errors import UserError
from llm.export.hf.classifier import read_classifier
from llm.finetune.classify.job import run_classify
from llm.finetune.classify.measures import Scored, log_loss
from llm.finetune.shared.jobs import Job

SPLITS = ["train", "train", "train", "val", "test"]
TOPICS = ["rain", "river", "sun"]
ROWS = {"majority", "tfidf", "random_weights", "pretrained"}


def _rows(n: int = 30) -> pd.DataFrame:
    """A topic is in the text, but another one is right in every fifth row, so that nobody can be quite certain."""
    topics = [TOPICS[(number + (number % 5 == 4)) % 3] for number in range(n)]
    return pd.DataFrame(
        {
            "text": [f"of {TOPICS[number % 3]} {number}" for number in range(n)],
            "other": [f"{TOPICS[number // 3 % 3]} it is" for number in range(n)],
            "label": topics,
            "labels": ["|".join(sorted({TOPICS[number % 3], TOPICS[number // 3 % 3]})) for number in range(n)],
            "split": [SPLITS[number // 3 % 5] for number in range(n)],
        }
    )


@pytest.fixture
def run(tmp_path, exported_folder, plain_cpu, make_task) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Runs a task with changes; the metrics, and the folder of what it wrote."""

    def run_one(changes: dict | None = None, n_seeds: int = 1, name: str = "out") -> tuple[dict[str, Any], Path]:
        out = tmp_path / name
        for folder in ("scratch", "model", "plots"):
            (out / folder).mkdir(parents=True)
        _rows().to_csv(out / "rows.csv", index=False)
        job = Job(
            data=out / "rows.csv",
            base=exported_folder,
            held_out=out / "test.parquet",
            model=out / "model",
            plots=out / "plots",
            report=out / "report.md",
            answers=out / "answers.json",
            seed=1,
            n_seeds=n_seeds,
            machine=plain_cpu,
            scratch=out / "scratch",
        )
        task = make_task("classify", {"training.epochs": 4.0} | (changes or {}))
        return run_classify(job, task), out

    return run_one


def _test_rows() -> pd.DataFrame:
    rows = _rows()
    return rows[rows["split"] == "test"]


def test_the_exported_model_is_calibrated_in_transformers_as_measured(run):
    metrics, out = run()
    measured = metrics["test"]["pretrained"]
    assert measured["temperature"] != 1
    logging.disable_progress_bar()
    classify = pipeline("text-classification", model=str(out / "model"), dtype=torch.float32, top_k=None)
    labels, test = sorted(TOPICS), _test_rows()
    found = np.empty((len(test), 3), dtype=np.float32)
    for row, scores in enumerate(classify(test["text"].tolist(), truncation=True)):
        for score in scores:
            found[row, labels.index(score["label"])] = np.log(score["score"])
    scored = Scored(np.array([labels.index(label) for label in test["label"]]), found)
    assert log_loss(scored) == pytest.approx(measured["log_loss_at_temperature"], abs=2e-5)
    assert log_loss(scored) != pytest.approx(measured["log_loss"], abs=1e-3)
    assert scored.is_right().mean() == pytest.approx(measured["accuracy"], abs=1e-4)


def test_every_row_has_figures_a_setting_and_a_line_in_the_report(run):
    metrics, out = run({"zero_shot": "{text} is {label}"})
    assert metrics["test"].keys() == metrics["settings"].keys() == ROWS | {"zero_shot"}
    assert metrics["differences"].keys() == {"tfidf", "random_weights"}
    assert metrics["rows"] == {"train": 18, "val": 6, "test": 6}
    report = (out / "report.md").read_text()
    assert [row for row in metrics["test"] if row.replace("_", " ") not in report] == []
    assert f"divided by {metrics['test']['pretrained']['temperature']}" in report
    assert {"confusion.csv", "confusion.svg", "curve.svg", "rows.svg"} <= {
        path.name for path in (out / "plots").iterdir()
    }
    assert "seeds" not in metrics


def test_the_folder_is_compared_with_the_model_as_clients_read_it(run):
    metrics, _ = run({"text_columns": ["text", "other"], "max_tokens": 8})
    assert metrics["rows_cut_to_max_tokens"] > 0
    assert metrics["export"]["rows"] == 6
    assert metrics["export"]["rows_with_other_ids"] == 0
    assert metrics["export"]["max_probability_difference"] < 1e-6


def test_any_number_of_labels_goes_the_same_way(run):
    metrics, out = run({"label_column": "labels", "label_separator": "|", "text_columns": ["text", "other"]})
    assert metrics["test"].keys() == ROWS
    assert all({"accuracy", "macro_f1"} <= figures.keys() for figures in metrics["test"].values())
    _, _, info = read_classifier(out / "model")
    assert (info.labels, info.label_separator, info.text_columns) == (TOPICS, "|", ["text", "other"])


def test_a_template_that_asks_for_one_label_is_refused_where_there_are_more(run):
    with pytest.raises(UserError, match=r"^zero_shot: wanted null where a row has any number of labels"):
        run({"label_column": "labels", "label_separator": "|", "zero_shot": "{text} is {label}"})


def test_random_weights_are_trained_as_a_whole_whatever_the_method(run):
    metrics, _ = run({"method.kind": "lora", "training.learning_rates": [0.002, 0.02]})
    tuned, drawn = metrics["settings"]["pretrained"], metrics["settings"]["random_weights"]
    assert (tuned["method"], drawn["method"]) == ("lora", "full")
    assert tuned["trained_weights"] < tuned["weights"] == drawn["trained_weights"] == drawn["weights"]
    assert tuned["steps"] == drawn["steps"]
    for setting in (tuned, drawn):
        assert setting["val_loss_by_rate"].keys() == {"0.002", "0.02"}


def test_seeds_have_a_mean_and_a_spread_and_the_first_ones_model_stays(run):
    one, first = run(name="one")
    three, second = run(n_seeds=3, name="three")
    assert three["test"] == one["test"]
    assert three["seeds"].keys() == {"pretrained", "random_weights"}
    for row in three["seeds"].values():
        assert row.keys() == {"accuracy", "macro_f1"}
        assert all(0 <= figure["mean"] <= 1 and figure["std"] >= 0 for figure in row.values())
    weights = [(out / "model/model.safetensors").read_bytes() for out in (first, second)]
    assert weights[0] == weights[1]


def test_the_rate_is_tuned_by_the_first_seed_alone(run, capsys):
    run({"training.learning_rates": [0.002, 0.02]}, n_seeds=2)
    said = capsys.readouterr().err
    assert "pretrained rate 0.02:" in said
    assert "pretrained seed 2:" in said
    assert "seed 2 rate" not in said
