"""Shares of the labeled rows hold what they should, and every point of the curve is trained on its own share."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.experiments.learning_curve import (
    ROWS,
    Outcome,
    Point,
    as_table,
    draw,
    draw_share,
    read_task,
    run_learning_curve,
    summarise,
    write_metrics,
)

SPLITS = ["train", "train", "train", "val", "test"]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.integers(0, 9),
)
def test_a_share_has_every_label_and_lies_in_a_larger_one(labels, share, other, seed):
    labels = np.array(labels)
    small, large = (draw_share(labels, part, seed).tolist() for part in sorted([share, other]))
    assert set(labels[small]) == set(labels)
    assert small == large[: len(small)]
    assert len(set(small)) == len(small) == max(len(set(labels)), round(min(share, other) * len(labels)))


def test_rows_with_any_number_of_labels_lead_with_one_of_each():
    labels = np.zeros((50, 3), dtype=np.int64)
    labels[7, 0] = labels[7, 2] = labels[30, 1] = 1
    assert sorted(draw_share(labels, 0.01, seed=1).tolist()) == [7, 30]


def test_seeds_draw_other_rows():
    labels = np.arange(100) % 2
    assert draw_share(labels, 0.2, 1).tolist() != draw_share(labels, 0.2, 2).tolist()


def _outcome(row: str, share: float, seed: int, accuracy: float) -> Outcome:
    return Outcome(Point(row, share, seed, ()), round(40 * share), 60, 0.02, accuracy, accuracy / 2)


def test_the_summary_is_mean_and_deviation_over_the_seeds(tmp_path):
    outcomes = [
        _outcome(row, share, seed, accuracy)
        for row in ROWS
        for share, accuracies in ((1.0, (0.8, 0.9, 1.0)), (0.25, (0.5, 0.5, 0.5)))
        for seed, accuracy in enumerate(accuracies)
    ]
    lines = summarise(outcomes)
    assert [(line["row"], line["share"], line["rows"]) for line in lines[:3]] == [
        ("pretrained", 0.25, 10),
        ("pretrained", 1.0, 40),
        ("random_weights", 0.25, 10),
    ]
    assert lines[1]["accuracy"] == {"mean": 0.9, "std": 0.1}
    assert lines[0]["macro_f1"] == {"mean": 0.25, "std": 0.0}
    assert "| pretrained | 0.500 ± 0.000 | 0.900 ± 0.100 |" in as_table(lines)
    write_metrics(tmp_path / "m" / "curve.json", "topics", lines)
    assert json.loads((tmp_path / "m" / "curve.json").read_text())["points"] == lines
    draw(tmp_path / "curve.svg", "topics", lines)
    assert "random weights" in (tmp_path / "curve.svg").read_text()


@pytest.fixture
def task(make_task, exported_folder, tmp_path):
    rows = [
        (f"{name} {number}", name, SPLITS[number % 5]) for name in ("rain falls", "river runs") for number in range(40)
    ]
    pd.DataFrame(rows, columns=["text", "label", "split"]).to_csv(tmp_path / "rows.csv", index=False)
    return make_task("classify", {"data": str(tmp_path / "rows.csv"), "base": str(exported_folder)})


def test_every_point_learns_from_its_own_share(task):
    outcomes = run_learning_curve(task, seed=1, shares=[1.0, 0.1], n_seeds=2, jobs=1)
    assert {(of.point.row, of.point.share, of.point.seed) for of in outcomes} == {
        (row, share, seed) for row in ROWS for share in (1.0, 0.1) for seed in (1, 2)
    }
    assert {(of.point.share, of.n_rows) for of in outcomes} == {(1.0, 48), (0.1, 5)}
    assert all(of.n_steps == 60 for of in outcomes if of.point.row != "tfidf")
    whole = [of.accuracy for of in outcomes if of.point.share == 1.0]
    assert min(whole) > 0.9


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none_is_refused(task, share):
    with pytest.raises(UserError, match=r"--shares: wanted numbers above 0 and up to 1, given"):
        run_learning_curve(task, seed=1, shares=[share], n_seeds=1)


def test_the_task_has_to_be_a_classification(tmp_path, make_task):
    content = {"finetune": {"tasks": {"answers": make_task("instruct").model_dump()}}, "seed": 3}
    (tmp_path / "params.yaml").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"finetune.tasks.answers.kind: wanted classify, given instruct"):
        read_task(tmp_path / "params.yaml", "answers")
    with pytest.raises(UserError, match=r"finetune.tasks.other: required key is missing"):
        read_task(tmp_path / "params.yaml", "other")
