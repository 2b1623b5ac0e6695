import numpy as np
import pytest

from llm.evaluate import bootstrap
from llm.evaluate.bootstrap import calibration, ratio_with_interval


def _rng(seed=1):
    return np.random.default_rng(seed)


def _interval(numerators, denominators, rng, digits=15):
    return [*ratio_with_interval("x", np.array(numerators), np.array(denominators), rng, digits).values()][1:]


def _documents(n, seed=5):
    n_bytes = _rng(seed).integers(100, 5000, size=n)
    return n_bytes * _rng(seed).gamma(4.0, 0.3, size=n), n_bytes


@pytest.mark.parametrize(
    ("numerators", "denominators", "interval"),
    [
        ([1.0, 3.0], [1, 1], [1.0, 3.0]),  # resamples are 1 (a quarter of them), 2 (half) and 3
        ([999.0, 1001.0], [999, 1], [1.0, 1001.0]),  # with both: 2,000 bits of 1,000 bytes
        ([1.0], [1], []),
    ],
)
def test_an_interval_by_hand(numerators, denominators, interval):
    assert _interval(numerators, denominators, _rng()) == interval


def test_it_is_the_percentile_bootstrap_of_documents(monkeypatch):
    numerators, denominators = _documents(20)
    drawn = _rng().integers(20, size=(2000, 20))
    ratios = numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1)
    whole = _interval(numerators, denominators, _rng())
    assert whole == pytest.approx(np.quantile(ratios, [0.025, 0.975]), rel=1e-12)
    assert whole != _interval(numerators, denominators, _rng(2))
    monkeypatch.setattr(bootstrap, "MAX_DRAWS", 20 * 7)  # in batches; 2,000 is no multiple of 7
    assert _interval(numerators, denominators, _rng()) == whole


def test_the_calibration_error_weighs_bins_by_their_tokens():
    # Three tokens say 0.95 and two of them come: off by 0.95 - 2/3. One says 0.35 and comes: off by 0.65.
    rows, error = calibration(np.array([0.95, 0.35, 0.95, 0.95]), np.array([True, True, False, True]), 10)
    assert rows == [
        {"from": 0.3, "to": 0.4, "count": 1, "confidence": 0.35, "accuracy": 1.0},
        {"from": 0.9, "to": 1.0, "count": 3, "confidence": 0.95, "accuracy": round(2 / 3, 5)},
    ]
    assert error == pytest.approx(3 / 4 * (0.95 - 2 / 3) + 1 / 4 * 0.65, abs=1e-5)


@pytest.mark.parametrize(("probability", "first"), [(0.0, 0.0), (0.5, 0.4), (0.51, 0.5), (1.0, 0.9)])
def test_an_edge_belongs_to_the_bin_below(probability, first):
    rows, _ = calibration(np.array([probability]), np.array([True]), 10)
    assert [(row["from"], row["count"]) for row in rows] == [(first, 1)]
