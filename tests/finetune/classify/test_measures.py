"""Figures by hand and beside scikit-learn's, intervals beside a slower bootstrap, whole pictures and reports."""

import csv
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from llm.finetune.classify.measures import (
    MOST_TEMPERATURE,
    Scored,
    by_label,
    describe_difference,
    difference,
    draw_plots,
    draw_rows,
    fit_temperature,
    log_loss,
    measure,
    reliability,
    write_report,
)

CURVE = [{"step": 1, "train_loss": 1.0, "val_loss": 2.0, "lr_factor": 0.5}]
# Of three labels: 0 is taken for 0 and for 1, 1 for 1, 2 for 1.
PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.125, 0.75, 0.125], [0.25, 0.5, 0.25]])
THREE = Scored(np.array([0, 0, 1, 2]), np.log(PROBABILITIES).astype(np.float32))
# Of any number of three labels, the last of which no row has and none is given.
ANY = Scored(
    np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]),
    np.array([[2, -2, -2], [2, -2, -2], [-2, -2, -2], [2, 2, -2]], dtype=np.float32),
)
TWO = Scored(
    np.array([0, 0, 1, 1]),
    np.stack([np.zeros(4), [0.1, 0.4, 0.35, 0.8]], axis=1).astype(np.float32),
)


def _calibrated(temperature: float, n: int = 10) -> Scored:
    """Rows that are right as often as they say, their logits times `temperature`: 80% of some, 60% of others."""
    actual = np.array(([0] * 8 + [1] * 2) * n + ([0] * 6 + [1] * 4) * n)
    probabilities = np.array([[0.8, 0.2]] * 10 * n + [[0.6, 0.4]] * 10 * n)
    return Scored(actual, (temperature * np.log(probabilities)).astype(np.float32))


def test_the_figures_of_one_label_a_row_by_hand():
    found = measure(THREE, 1.0, seed=1)
    assert found["accuracy"] == 0.5
    # F1 is 2 · 1 / (2 + 1), 2 · 1 / (1 + 3) and 0; recall 1/2, 1/1 and 0.
    assert found["macro_f1"] == round((2 / 3 + 1 / 2) / 3, 4)
    assert found["balanced_accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(-np.log([0.5, 0.25, 0.75, 0.25]).mean(), abs=1e-5)
    # Of those that say 0.5 one in three is right, the one that says 0.75 is.
    assert found["calibration_error"] == pytest.approx((3 * abs(0.5 - 1 / 3) + abs(0.75 - 1)) / 4, abs=1e-5)
    assert found["log_loss_at_temperature"] == found["log_loss"]
    assert "roc_auc" not in found


def test_the_figures_of_any_number_of_labels_by_hand():
    found = measure(ANY, 1.0, seed=1)
    assert found["accuracy"] == 0.5  # the first and the third have exactly theirs
    # Of label 0 two of three given are right, and it has two; of label 1 the one that is given is, and it has two.
    assert found["macro_f1"] == round((4 / 5 + 2 / 3) / 2, 4)
    assert found["micro_f1"] == round(2 * 3 / (4 + 4), 4)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert found["log_loss"] == pytest.approx((10 * right + 2 * wrong) / 12, abs=1e-5)
    assert "balanced_accuracy" not in found


def test_two_labels_have_roc_auc_and_average_precision():
    found = measure(TWO, 1.0, seed=1)
    # Three of four pairs are in order. Precision is 1/1 where the first is found, 2/3 where the second is.
    assert found["roc_auc"] == 0.75
    assert found["average_precision"] == round((1 + 2 / 3) / 2, 4)


def test_a_test_of_one_of_two_labels_has_no_roc_auc():
    found = measure(Scored(np.array([1, 1]), TWO.scores[:2]), 1.0, seed=1)
    assert "roc_auc" not in found
    assert found["balanced_accuracy"] == 1


@st.composite
def scored(draw):
    n, n_labels = draw(st.integers(2, 12)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = (n, n_labels) if draw(st.booleans()) else (n,)
    actual = rng.integers(0, 2 if len(shape) == 2 else n_labels, shape)
    return Scored(actual, rng.normal(size=(n, n_labels)).astype(np.float32))


@given(scored())
@settings(max_examples=30, deadline=None)
def test_macro_f1_is_scikit_learns_over_the_labels_that_occur(scored):
    predicted = scored.predict()
    if scored.is_multilabel:
        occur = (scored.actual | predicted).any(axis=0)
        each = f1_score(scored.actual, predicted, average=None, zero_division=0)
        slow = each[occur].mean() if occur.any() else 0.0
    else:
        slow = f1_score(scored.actual, predicted, average="macro")
    found = measure(scored, 1.0, seed=1)
    assert found["macro_f1"] == pytest.approx(slow, abs=1e-4)
    for name in ("accuracy", "macro_f1"):
        assert 0 <= found[f"{name}_low"] <= found[f"{name}_high"] <= 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_scaled_the_logits(temperature):
    val = _calibrated(temperature)
    assert fit_temperature(val) == pytest.approx(temperature, rel=1e-3)
    assert reliability(val, temperature)[1] == pytest.approx(0, abs=1e-5)
    assert (reliability(val)[1] > 0.05) is (temperature != 1)


def test_a_val_that_says_nothing_leaves_the_temperature_at_1_and_a_wrong_one_takes_it_up_to_its_bound():
    assert fit_temperature(Scored(np.array([0, 1]), np.zeros((2, 2), dtype=np.float32))) == 1
    assert fit_temperature(Scored(np.array([0, 1]), np.eye(2, dtype=np.float32))) == 1
    wrong = Scored(np.array([1, 0]), np.eye(2, dtype=np.float32))
    assert fit_temperature(wrong) == pytest.approx(MOST_TEMPERATURE, rel=1e-2)
    assert fit_temperature(ANY) == pytest.approx(2 / math.log(5), rel=1e-3)  # ten of twelve are right: odds of 5


def test_the_temperature_changes_probabilities_and_no_prediction():
    before, after = measure(THREE, 1.0, seed=1), measure(THREE, 2.0, seed=1)
    halved = Scored(THREE.actual, THREE.scores / 2)
    assert after["log_loss_at_temperature"] == pytest.approx(log_loss(halved), abs=1e-5)
    assert after["calibration_error_at_temperature"] == reliability(halved)[1] != before["calibration_error"]
    assert before.items() - after.items() == {
        ("temperature", 1.0),
        *((key, before[key]) for key in before if key.endswith("_at_temperature")),
    }


def test_an_edge_belongs_to_the_bin_below_it():
    # 15 bins: 1/3 is the upper edge of the fifth.
    rows, _ = reliability(Scored(np.array([0]), np.zeros((1, 3), dtype=np.float32)))
    assert [(row["from"], row["to"], row["count"]) for row in rows] == [(0.2667, 0.3333, 1)]


def test_intervals_are_those_of_the_bootstrap():
    rng = np.random.default_rng(7)
    actual = rng.integers(0, 3, 300)
    scores = np.eye(3)[actual] + rng.normal(0, 0.8, (300, 3))
    test = Scored(actual, scores.astype(np.float32))
    found, predicted = measure(test, 1.0, seed=1), test.predict()
    draws = [rng.integers(300, size=300) for _ in range(400)]
    slow = [f1_score(actual[drawn], predicted[drawn], average="macro") for drawn in draws]
    for name, values in (("accuracy", [(actual == predicted)[drawn].mean() for drawn in draws]), ("macro_f1", slow)):
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[f"{name}_low"] == pytest.approx(low, abs=0.015)
        assert found[f"{name}_high"] == pytest.approx(high, abs=0.015)


def test_the_seed_alone_decides_on_the_intervals():
    test = _calibrated(1.0)
    assert measure(test, 1.0, seed=1) == measure(test, 1.0, seed=1)
    assert measure(test, 1.0, seed=1) != measure(test, 1.0, seed=2)


def test_a_single_row_has_no_interval():
    one = Scored(THREE.actual[:1], THREE.scores[:1])
    assert not [key for key in measure(one, 1.0, seed=1) if key.endswith(("_low", "_high"))]
    assert difference(one, one, seed=1) == {"difference": 0.0}


def test_a_difference_is_drawn_in_pairs():
    rng = np.random.default_rng(3)
    actual = rng.integers(0, 2, 200)
    a = Scored(actual, np.eye(2, dtype=np.float32)[actual])
    worse = np.where(np.arange(200) < 20, 1 - actual, actual)
    b = Scored(actual, np.eye(2, dtype=np.float32)[worse])
    found = difference(a, b, seed=1)
    assert found["difference"] == 0.1
    deviation = math.sqrt(0.1 * 0.9 / 200)
    assert found["difference_low"] == pytest.approx(0.1 - 1.96 * deviation, abs=0.01)
    assert found["difference_high"] == pytest.approx(0.1 + 1.96 * deviation, abs=0.01)
    assert difference(b, b, seed=1) == {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    with pytest.raises(AssertionError, match="other rows"):
        difference(a, Scored(1 - actual, b.scores), seed=1)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ({"difference_low": 0.01, "difference_high": 0.2}, "pretrained is better"),
        ({"difference_low": -0.2, "difference_high": -0.01}, "zero shot is better"),
        ({"difference_low": -0.1, "difference_high": 0.1}, "cannot tell"),
        ({"difference_low": 0.0, "difference_high": 0.1}, "cannot tell"),
        ({}, "no interval"),
    ],
)
def test_a_difference_says_what_it_may(ends, verdict):
    assert verdict in describe_difference("pretrained", "zero_shot", {"difference": 0.05} | ends)


def test_the_table_by_label_by_hand():
    table = by_label(THREE, ["x", "y", "z"])
    assert table.loc["x"].tolist() == [1.0, 0.5, round(2 / 3, 4), 2]
    assert table.loc["y"].tolist() == [round(1 / 3, 4), 1.0, 0.5, 1]
    assert table.loc["z"].tolist() == [0.0, 0.0, 0.0, 1]
    assert by_label(ANY, ["x", "y", "z"]).loc["z"].tolist() == [0.0, 0.0, 0.0, 0]


def test_the_confusion_table_has_a_row_for_each_prediction(tmp_path):
    labels = ["a, b", 'c "d"', "$e$"]
    draw_plots(tmp_path, labels, THREE, 1.5, CURVE)
    with (tmp_path / "confusion.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["actual", "predicted"]
    assert rows[1:] == [[labels[a], labels[p]] for a, p in zip([0, 0, 1, 2], [0, 1, 1, 1], strict=True)]
    assert sorted(path.stem for path in tmp_path.glob("*.svg")) == ["confusion", "curve", "reliability"]


def test_every_kind_of_labels_has_its_pictures(tmp_path):
    draw_plots(tmp_path / "two", ["x", "y"], TWO, 1.0, CURVE)
    assert ">finding y in test<" in (tmp_path / "two" / "roc.svg").read_text(encoding="utf-8")
    draw_plots(tmp_path / "any", ["x", "y", "z"], ANY, 1.0, CURVE)
    assert sorted(path.name for path in (tmp_path / "any").iterdir()) == ["curve.svg", "labels.svg", "reliability.svg"]
    assert ">at temperature 1.00<" in (tmp_path / "any" / "reliability.svg").read_text(encoding="utf-8")


def test_the_rows_stand_best_first_with_and_without_an_interval(tmp_path):
    figures = {"tfidf": {"accuracy": 0.25}, "pretrained": measure(THREE, 1.0, seed=1)}
    draw_rows(tmp_path, figures)
    text = (tmp_path / "rows.svg").read_text(encoding="utf-8")
    assert ">0.250<" in text
    assert ">0.500<" in text


def test_the_report_holds_every_row_setting_and_label(tmp_path):
    rows = {
        "tfidf": (measure(THREE, 2.0, seed=1), {"C": 10.0, "val_loss_by_C": {"1.0": 0.75, "10.0": 0.5}}),
        "pretrained": (measure(THREE, 1.0, seed=1) | {"accuracy": 0.875}, {"template": "a\n| b", "rate": 0.016}),
    }
    differences = {"tfidf": {"difference": 0.375, "difference_low": 0.125, "difference_high": 0.625}}
    write_report(tmp_path / "report.md", rows, by_label(THREE, ["x | y", "two\nlines", "z"]), differences)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.index("| pretrained | 0.875") < text.index("| tfidf | 0.5")
    low, high = (rows["tfidf"][0][f"accuracy_{end}"] for end in ("low", "high"))
    assert f"0.5 [{low}, {high}]" in text
    assert "pretrained less tfidf: +0.3750 [+0.1250, +0.6250], above 0 throughout: pretrained is better." in text
    assert "- tfidf: C 10.0, val loss by C (1.0: 0.75, 10.0: 0.5)" in text
    assert "- pretrained: template a | b, rate 0.016" in text
    assert "| x \\| y | 1.0 | 0.5 | 0.6667 | 2 |" in text
    assert "| two lines |" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert [len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) for table in tables] == [1, 1]


def test_a_report_without_differences_says_nothing_of_them(tmp_path):
    write_report(tmp_path / "report.md", {"pretrained": (measure(ANY, 1.0, 1), {})}, by_label(ANY, ["x", "y", "z"]), {})
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "chance" not in text
    assert "| on test | accuracy | macro-F1 | micro-F1 | log loss (nats) |" in text
