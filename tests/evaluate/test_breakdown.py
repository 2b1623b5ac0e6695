import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.bootstrap import calibration
from llm.evaluate.breakdown import (
    by_place,
    by_source,
    extremes,
    sum_by_document,
)

BIT = math.log(2)


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8))
def test_each_target_belongs_to_one_document(documents):
    stream = np.array([0, *(id_ for ids in documents for id_ in [*ids, 0])])
    values = np.arange(1, len(stream), dtype=np.float32)
    sums = sum_by_document(stream, 0, values)
    # The cost of a document's tokens and of its end: the stream's places from the first of them on.
    left, expected = list(values), []
    for ids in documents:
        expected.append(sum(left[: len(ids) + 1]))
        left = left[len(ids) + 1 :]
    assert sums.tolist() == expected


def test_a_source_has_its_own_bits_and_its_own_interval():
    # Code: 8 bits in 4 bytes and 8 in 16; prose: 30 bits in 10 bytes, one document.
    rows = by_source(
        ["code", "prose", "code"],
        BIT * np.array([8.0, 30.0, 8.0]),
        np.array([4, 10, 16]),
        np.array([3, 5, 7]),
        np.random.default_rng(1),
    )
    assert rows == [
        {"source": "code", "documents": 2, "bytes": 20, "tokens": 10, "bits_per_byte": 0.8}
        | {"bits_per_byte_low": 0.5, "bits_per_byte_high": 2.0},
        {"source": "prose", "documents": 1, "bytes": 10, "tokens": 5, "bits_per_byte": 3.0},
    ]


def test_hardest_and_easiest_are_by_bits_per_byte_of_documents_that_are_long_enough():
    names, n_bytes = list("abcde"), np.array([1000, 500, 499, 2000, 800])
    nats = BIT * n_bytes * np.array([2.0, 3.0, 9.0, 1.0, 2.0])
    hardest, easiest = extremes(names, nats, n_bytes, n=3)
    assert [(row["document"], row["bits_per_byte"]) for row in hardest] == [("b", 3.0), ("a", 2.0), ("e", 2.0)]
    assert [(row["document"], row["bits_per_byte"]) for row in easiest] == [("d", 1.0), ("a", 2.0), ("e", 2.0)]


def test_where_no_document_is_long_the_longest_stand_there():
    hardest, _ = extremes(["a", "b", "c"], BIT * np.array([1.0, 5.0, 4.0]), np.array([3, 1, 3]), n=10)
    assert [row["document"] for row in hardest] == ["c", "a"]


@pytest.mark.parametrize("context", [1, 2, 3, 17, 64])
def test_buckets_double_and_lose_no_target(context):
    nats, targets = np.arange(context, dtype=np.float64), np.full(context, 3)
    rows = by_place(nats, targets)
    assert sum(row["targets"] for row in rows) == 3 * context
    total = sum(row["targets"] * row["nats_per_token"] for row in rows)
    assert total == pytest.approx(nats.sum(), abs=1e-3)
    assert rows[0]["from"] == rows[0]["to"] == 1
    for before, row in pairwise(rows):
        assert row["from"] == before["to"] + 1
        assert row["to"] == min(2 * before["to"], context)


def test_places_that_no_window_reaches_have_no_row():
    rows = by_place(np.array([2.0, 0.0, 0.0, 0.0]), np.array([1, 0, 0, 0]))
    assert rows == [{"from": 1, "to": 1, "targets": 1, "nats_per_token": 2.0}]


def test_the_calibration_error_weighs_bins_by_their_tokens():
    # Three tokens say 0.95 and two of them come: off by 0.95 - 2/3. One says 0.35 and comes: off by 0.65.
    rows, error = calibration(np.array([0.95, 0.35, 0.95, 0.95]), np.array([True, True, False, True]), 10)
    assert rows == [
        {"from": 0.3, "to": 0.4, "count": 1, "confidence": 0.35, "accuracy": 1.0},
        {"from": 0.9, "to": 1.0, "count": 3, "confidence": 0.95, "accuracy": round(2 / 3, 5)},
    ]
    assert error == pytest.approx(3 / 4 * (0.95 - 2 / 3) + 1 / 4 * 0.65, abs=1e-5)


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    rng = np.random.default_rng(1)
    sure = rng.uniform(size=200_000).astype(np.float32)
    assert calibration(sure, rng.uniform(size=200_000) < sure, 10)[1] < 0.01
    assert calibration(sure, rng.uniform(size=200_000) < sure**2, 10)[1] == pytest.approx(1 / 2 - 1 / 3, abs=0.01)


@pytest.mark.parametrize(("probability", "first"), [(0.0, 0.0), (0.5, 0.4), (0.51, 0.5), (1.0, 0.9)])
def test_an_edge_belongs_to_the_bin_below(probability, first):
    rows, _ = calibration(np.array([probability]), np.array([True]), 10)
    assert [(row["from"], row["count"]) for row in rows] == [(first, 1)]
