import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.breakdown import by_position, by_source, extremes, sum_by_document

BIT = math.log(2)


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8))
def test_each_target_belongs_to_one_document(documents):
    stream = np.array([0, *(id_ for ids in documents for id_ in [*ids, 0])])
    ends = np.cumsum([len(ids) + 1 for ids in documents])
    values = np.arange(1, len(stream), dtype=np.float32)
    # The cost of a document is that of its tokens and of its end of text.
    expected = [own.sum() for own in np.split(values, ends[:-1])]
    assert sum_by_document(stream, 0, values).tolist() == expected


def test_a_source_has_its_own_bits_and_its_own_interval():
    # Code: 8 bits in 4 bytes and 8 in 16; prose: 30 bits in 10 bytes, one document.
    nats, n_bytes, n_tokens = BIT * np.array([8.0, 30.0, 8.0]), np.array([4, 10, 16]), np.array([3, 5, 7])
    assert by_source(["code", "prose", "code"], nats, n_bytes, n_tokens, np.random.default_rng(1)) == [
        {"source": "code", "documents": 2, "bytes": 20, "tokens": 10, "bits_per_byte": 0.8}
        | {"bits_per_byte_low": 0.5, "bits_per_byte_high": 2.0},
        {"source": "prose", "documents": 1, "bytes": 10, "tokens": 5, "bits_per_byte": 3.0},
    ]


@pytest.mark.parametrize(
    ("n_bytes", "bits", "hardest", "easiest"),
    [
        ([1000, 500, 499, 2000, 800], [2.0, 3.0, 9.0, 1.0, 2.0], "bae", "dae"),
        ([3, 1, 3], [1 / 3, 5.0, 4 / 3], "ca", "ac"),  # none is long: the longest count
    ],
)
def test_extremes_are_of_documents_that_are_long_enough(n_bytes, bits, hardest, easiest):
    found = extremes("abcde", BIT * np.array(n_bytes) * bits, np.array(n_bytes), n=3)
    assert ["".join(row["document"] for row in rows) for rows in found] == [hardest, easiest]


@pytest.mark.parametrize("context", [1, 2, 3, 17, 64])
def test_buckets_double_and_lose_no_target(context):
    nats, targets = np.arange(context, dtype=np.float64), np.full(context, 3)
    rows = by_position(nats, targets)
    assert sum(row["targets"] for row in rows) == 3 * context
    assert sum(row["targets"] * row["nats_per_token"] for row in rows) == pytest.approx(nats.sum(), abs=1e-3)
    assert rows[0]["from"] == rows[0]["to"] == 1
    for before, row in pairwise(rows):
        assert (row["from"], row["to"]) == (before["to"] + 1, min(2 * before["to"], context))


def test_positions_that_no_window_reaches_have_no_row():
    rows = by_position(np.array([2.0, 0.0, 0.0, 0.0]), np.array([1, 0, 0, 0]))
    assert rows == [{"from": 1, "to": 1, "targets": 1, "nats_per_token": 2.0}]
