"""Fractions hold the rows they should, and every point of the curve is trained on its own fraction."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llm.__main__ import app
from llm.core.errors import UserError
from llm.experiments import learning_curve
from llm.experiments.learning_curve import SYSTEMS, Outcome, draw_rows, summarize, write_learning_curve

SPLITS = ["train", "train", "train", "val", "test"]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 9))
def test_a_fraction_has_every_label_and_the_smaller_ones(labels, fraction, other, seed):
    labels = np.array(labels)
    small, large = (draw_rows(labels, part, seed).tolist() for part in sorted([fraction, other]))
    assert set(labels[small]) == set(labels)
    assert small == large[: len(small)]
    assert len(set(small)) == len(small) == max(len(set(labels)), round(min(fraction, other) * len(labels)))


def test_multilabel_rows_lead_with_one_of_each_label():
    labels = np.zeros((50, 3), dtype=np.int64)
    labels[7, 0] = labels[7, 2] = labels[30, 1] = 1
    assert sorted(draw_rows(labels, 0.01, seed=1).tolist()) == [7, 30]
    assert draw_rows(labels[:, 0], 0.2, 1).tolist() != draw_rows(labels[:, 0], 0.2, 2).tolist()


def test_a_point_is_mean_and_deviation_over_the_seeds():
    expected = {"rows": 40, "accuracy_mean": 0.9, "accuracy_std": 0.1, "macro_f1_mean": 0.45, "macro_f1_std": 0.05}
    outcomes = [Outcome(40, 60, 0.02, accuracy, accuracy / 2) for accuracy in (0.8, 0.9, 1.0)]
    assert summarize(outcomes) == expected | {"n_seeds": 3, "steps": 60, "learning_rate": 0.02}


@pytest.fixture
def params_file(make_task, exported_folder, tmp_path, monkeypatch):
    """Params with a classification and an instruction task, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rows = [(f"{name} {n}", name, SPLITS[n % 5]) for name in ("rain falls", "river runs") for n in range(40)]
    pd.DataFrame(rows, columns=["text", "label", "split"]).to_csv("rows.csv", index=False)
    task = make_task("classify", {"data": "rows.csv", "base": str(exported_folder)}).model_dump()
    content = {"finetune": {"tasks": {"rain": task, "answers": make_task("instruct").model_dump()}}, "seed": 1}
    Path("params.yaml").write_text(json.dumps(content))
    return Path("params.yaml")


def test_every_point_learns_from_its_own_fraction(params_file, plain_cpu, monkeypatch):
    monkeypatch.setattr(learning_curve, "MIN_STEPS", 12)
    words = ["learning-curve", "rain", "--fraction", "1", "--fraction", "0.1", "--seeds", "2"]
    ended = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ended.exit_code == 0
    points = json.loads(Path("metrics/learning_curve/rain.json").read_text())["points"]
    assert [(point["system"], point["fraction"], point["rows"]) for point in points] == [
        (system, *of) for system in SYSTEMS for of in ((0.1, 5), (1.0, 48))
    ]
    assert {(point["steps"], point["n_seeds"]) for point in points} == {(12, 2), (None, 2)}
    assert min(point["accuracy_mean"] for point in points if point["fraction"] == 1) > 0.9
    assert "| this model, finetuned | " in ended.stdout
    assert "not pretrained" in Path("plots/learning_curve/rain.svg").read_text()


@pytest.mark.parametrize(
    ("name", "fraction", "problem"),
    [
        ("answers", 1.0, "finetune.tasks.answers.kind: expected classify, got instruct"),
        ("other", 1.0, "finetune.tasks.other"),
        ("rain", 0.0, "--fraction: expected numbers above 0 and up to 1, got"),
        ("rain", 1.5, "--fraction: expected numbers above 0 and up to 1, got"),
    ],
)
def test_another_task_or_fraction_is_refused(params_file, name, fraction, problem):
    with pytest.raises(UserError, match=problem):
        write_learning_curve(params_file, name, [fraction], 1)
