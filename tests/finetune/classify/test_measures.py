"""Figures by hand and beside scikit-learn's, intervals beside a slower bootstrap."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from llm.finetune.classify.measures import (
    MAX_TEMPERATURE,
    Scored,
    by_label,
    curves,
    difference,
    fit_temperature,
    log_loss,
    measure,
    reliability,
)

# Of three labels: 0 is predicted as 0 and as 1, 1 as 1, 2 as 1.
PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.125, 0.75, 0.125], [0.25, 0.5, 0.25]])
THREE = Scored(np.array([0, 0, 1, 2]), np.log(PROBABILITIES).astype(np.float32))
# Of any number of three labels, the last of which no row has and none is given.
ANY = Scored(
    np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]),
    np.array([[2, -2, -2], [2, -2, -2], [-2, -2, -2], [2, 2, -2]], dtype=np.float32),
)
TWO = Scored(np.array([0, 0, 1, 1]), np.stack([np.zeros(4), [0.1, 0.4, 0.35, 0.8]], axis=1).astype(np.float32))


def calibrated(temperature: float, n: int = 10) -> Scored:
    """Rows that are right as often as they say, logits times `temperature`: 80% of some, 60% of others."""
    actual = np.array(([0] * 8 + [1] * 2) * n + ([0] * 6 + [1] * 4) * n)
    probabilities = np.array([[0.8, 0.2]] * 10 * n + [[0.6, 0.4]] * 10 * n)
    return Scored(actual, (temperature * np.log(probabilities)).astype(np.float32))


def test_figures_of_one_label_by_hand():
    found = measure(THREE, 1.0, seed=1)
    assert (found["accuracy"], found["balanced_accuracy"]) == (0.5, 0.5)
    # F1 is 2 · 1 / (2 + 1), 2 · 1 / (1 + 3) and 0; recall 1/2, 1/1 and 0.
    assert found["macro_f1"] == round((2 / 3 + 1 / 2) / 3, 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.5, 0.25, 0.75, 0.25]).mean(), abs=1e-5)
    # Of those that say 0.5 one in three is right, the one that says 0.75 is.
    assert found["calibration_error"] == pytest.approx((3 * abs(0.5 - 1 / 3) + abs(0.75 - 1)) / 4, abs=1e-5)
    assert found["log_loss_at_temperature"] == found["log_loss"]
    halved, other = Scored(THREE.actual, THREE.scores / 2), measure(THREE, 2.0, seed=1)
    assert other["log_loss_at_temperature"] == pytest.approx(log_loss(halved), abs=1e-5)
    assert other["calibration_error_at_temperature"] == reliability(halved)[1] != found["calibration_error"]


def test_figures_of_any_number_of_labels_by_hand():
    found = measure(ANY, 1.0, seed=1)
    assert found["accuracy"] == 0.5  # the first and the third have exactly theirs
    # Of label 0 two of three predictions are right, and two rows have it; of label 1 one of one, and two have it.
    assert found["macro_f1"] == round((4 / 5 + 2 / 3) / 2, 4)
    assert found["micro_f1"] == round(2 * 3 / (4 + 4), 4)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert found["log_loss"] == pytest.approx((10 * right + 2 * wrong) / 12, abs=1e-5)
    assert "balanced_accuracy" not in found


def test_two_labels_have_a_roc_and_a_precision_recall_curve():
    found, shown = measure(TWO, 1.0, seed=1), curves(TWO, 2.0, ["x", "y"])
    # Three of four pairs are in order. Precision is 1/1 where the first is found, 2/3 where the second is.
    assert (found["roc_auc"], found["average_precision"]) == (0.75, round((1 + 2 / 3) / 2, 4))
    assert shown["roc"][0] == [0, 0]
    assert shown["precision_recall"][-1] == [0, 1]
    assert shown["positive_fraction"] == 0.5
    assert shown["calibration"].keys() == {"uncalibrated", "temperature 2.00"}
    assert "roc_auc" not in measure(Scored(np.array([1, 1]), TWO.scores[:2]), 1.0, seed=1)
    assert curves(THREE, 1.0, ["x", "y", "z"])["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert curves(ANY, 1.0, ["x", "y", "z"]).keys() == {"calibration"}


@st.composite
def scored(draw):
    n, n_labels = draw(st.integers(2, 12)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = (n, n_labels) if draw(st.booleans()) else (n,)
    actual = rng.integers(0, 2 if len(shape) == 2 else n_labels, shape)
    return Scored(actual, rng.normal(size=(n, n_labels)).astype(np.float32))


@given(scored())
@settings(max_examples=30, deadline=None)
def test_macro_f1_is_that_of_scikit_learn_over_labels_that_occur(scored):
    predicted = scored.predict()
    if scored.is_multilabel:
        occur = (scored.actual | predicted).any(axis=0)
        each = f1_score(scored.actual, predicted, average=None, zero_division=0)
        expected = each[occur].mean() if occur.any() else 0.0
    else:
        expected = f1_score(scored.actual, predicted, average="macro")
    found = measure(scored, 1.0, seed=1)
    assert found["macro_f1"] == pytest.approx(expected, abs=1e-4)
    for name in ("accuracy", "macro_f1"):
        assert 0 <= found[f"{name}_low"] <= found[f"{name}_high"] <= 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_recovered(temperature):
    val = calibrated(temperature)
    assert fit_temperature(val) == pytest.approx(temperature, rel=1e-3)
    assert reliability(val, temperature)[1] == pytest.approx(0, abs=1e-5)
    assert (reliability(val)[1] > 0.05) is (temperature != 1)


def test_temperatures_at_the_limits():
    assert fit_temperature(Scored(np.array([0, 1]), np.zeros((2, 2), dtype=np.float32))) == 1
    assert fit_temperature(Scored(np.array([0, 1]), np.eye(2, dtype=np.float32))) == 1
    assert fit_temperature(Scored(np.array([1, 0]), np.eye(2, dtype=np.float32))) == pytest.approx(
        MAX_TEMPERATURE, 1e-2
    )
    assert fit_temperature(ANY) == pytest.approx(2 / math.log(5), rel=1e-3)  # ten of twelve are right: odds of 5


def test_intervals_are_those_of_a_bootstrap_with_the_seed():
    rng = np.random.default_rng(7)
    actual = rng.integers(0, 3, 300)
    test = Scored(actual, (np.eye(3)[actual] + rng.normal(0, 0.8, (300, 3))).astype(np.float32))
    found, predicted = measure(test, 1.0, seed=1), test.predict()
    draws = [rng.integers(300, size=300) for _ in range(400)]
    slow = [f1_score(actual[drawn], predicted[drawn], average="macro") for drawn in draws]
    for name, values in (("accuracy", [(actual == predicted)[drawn].mean() for drawn in draws]), ("macro_f1", slow)):
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[f"{name}_low"] == pytest.approx(low, abs=0.015)
        assert found[f"{name}_high"] == pytest.approx(high, abs=0.015)
    assert measure(test, 1.0, seed=1) == found != measure(test, 1.0, seed=2)


def test_a_difference_is_paired():
    actual = np.random.default_rng(3).integers(0, 2, 200)
    a = Scored(actual, np.eye(2, dtype=np.float32)[actual])
    b = Scored(actual, np.eye(2, dtype=np.float32)[np.where(np.arange(200) < 20, 1 - actual, actual)])
    found = difference(a, b, seed=1)
    deviation = math.sqrt(0.1 * 0.9 / 200)
    assert found["accuracy_difference"] == 0.1
    assert found["accuracy_difference_low"] == pytest.approx(0.1 - 1.96 * deviation, abs=0.01)
    assert found["accuracy_difference_high"] == pytest.approx(0.1 + 1.96 * deviation, abs=0.01)
    assert set(difference(b, b, seed=1).values()) == {0.0}
    one = Scored(THREE.actual[:1], THREE.scores[:1])
    assert difference(one, one, seed=1) == {"accuracy_difference": 0.0}
    assert not [key for key in measure(one, 1.0, seed=1) if key.endswith(("_low", "_high"))]


def test_the_table_by_label_by_hand():
    rows = [list(row.values()) for row in by_label(THREE, ["x", "y", "z"])]
    assert rows == [["x", 1.0, 0.5, 0.6667, 2], ["y", 0.3333, 1.0, 0.5, 1], ["z", 0.0, 0.0, 0.0, 1]]
    assert by_label(ANY, ["x", "y", "z"])[2] == {"label": "z", "precision": 0, "recall": 0, "f1": 0, "rows": 0}
