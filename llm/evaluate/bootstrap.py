"""Figures of held-out text and how far to trust them: bits per byte, bootstrap intervals, calibration.

An interval covers other documents of the same kind for the same model; the variance between training seeds is not in
it. Documents are resampled, not tokens: those of one document are alike, and would give too narrow an interval.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

LEVEL = 0.95
N_RESAMPLES = 2000
MAX_DRAWS = 1 << 22  # documents drawn in one batch, 32 MiB

Numbers = NDArray[np.number]
Row = dict[str, Any]


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Return the bits per UTF-8 byte of a text that costs `nats`, rounded to 5 places."""
    return round(nats / math.log(2) / n_bytes, 5)


def ratio_with_interval(
    name: str, numerators: Numbers, denominators: Numbers, rng: np.random.Generator, digits: int = 5
) -> dict[str, float]:
    """Return sum(numerators) / sum(denominators), both (D,), and the ends of its 95% interval; rounded.

    Percentile bootstrap over pairs (Efron and Tibshirani 1993, chapter 13); one pair has no interval. Denominators are
    above 0.

    >>> ratio_with_interval("mean", np.array([10, 30, 20]), np.array([5, 10, 10]), np.random.default_rng(1))
    {'mean': 2.4, 'mean_low': 2.0, 'mean_high': 3.0}
    """
    assert (denominators > 0).all(), "a resample could divide by zero"
    found = {name: numerators.sum() / denominators.sum()}
    if len(numerators) > 1:
        interval = bootstrap(
            (numerators, denominators),
            lambda above, below, axis: above.sum(axis) / below.sum(axis),
            n_resamples=N_RESAMPLES,
            batch=max(MAX_DRAWS // len(numerators), 1),
            vectorized=True,
            paired=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=rng,
        ).confidence_interval
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: round(float(value), digits) for key, value in found.items()}


def calibration(
    confidence: NDArray[np.floating], is_right: NDArray[np.bool_] | NDArray[np.int64], n_bins: int
) -> tuple[list[Row], float]:
    """Return a row per bin of predictions (N,) by confidence (N,), and the expected calibration error.

    Bins have equal widths and include their upper edge. The error is the mean of |confidence - accuracy| over bins,
    weighted by their counts (Guo et al. 2017, arXiv:1706.04599).

    >>> rows, error = calibration(np.array([0.75, 0.75, 0.25, 0.25]), np.array([True, True, True, False]), n_bins=10)
    >>> rows[0], error
    ({'from': 0.2, 'to': 0.3, 'count': 2, 'confidence': 0.25, 'accuracy': 0.5}, 0.25)
    """
    values = confidence.astype(np.float64)
    bins = np.searchsorted(np.arange(1, n_bins) / n_bins, values)
    counts = np.bincount(bins, minlength=n_bins)
    confident, right = (np.bincount(bins, weights=weights, minlength=n_bins) for weights in (values, is_right))
    rows = [
        {"from": round(i / n_bins, 4), "to": round((i + 1) / n_bins, 4), "count": int(n)}
        | {"confidence": round(float(sure / n), 5), "accuracy": round(float(hits / n), 5)}
        for i, (n, sure, hits) in enumerate(zip(counts, confident, right, strict=True))
        if n
    ]
    return rows, round(float(np.abs(confident - right).sum()) / len(values), 5)
