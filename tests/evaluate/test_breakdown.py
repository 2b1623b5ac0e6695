import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate import breakdown
from llm.evaluate.breakdown import BETTER, LOSSY, NO_INTERVAL, SEES_THE_FUTURE, WITHIN, WORSE, Baselines

BIT = math.log(2)
DOCUMENTS = st.lists(st.lists(st.integers(1, 3), max_size=7), max_size=5)


def _stream(documents):
    ids = [0, *(id_ for ids in documents for id_ in [*ids, 0])] if documents else []
    return np.array(ids, dtype=np.uint16)


@given(DOCUMENTS)
def test_each_target_belongs_to_one_document(documents):
    ends = np.cumsum([len(ids) + 1 for ids in documents]).astype(int)
    values = np.arange(1, ends[-1] + 1 if documents else 1, dtype=np.float32)
    # The cost of a document is that of its tokens and of its end of text.
    expected = [own.sum() for own in np.split(values, ends[:-1])] if documents else []
    assert breakdown.sum_by_document(_stream(documents), 0, values).tolist() == expected


def test_a_source_has_its_own_bits_and_its_own_interval():
    # Code: 8 bits in 4 bytes and 8 in 16; prose: 30 bits in 10 bytes, one document.
    nats, n_bytes, n_tokens = BIT * np.array([8.0, 30.0, 8.0]), np.array([4, 10, 16]), np.array([3, 5, 7])
    rows = breakdown.by_source(["code", "prose", "code"], nats, n_bytes, n_tokens, np.random.default_rng(1))
    assert rows == [
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
    found = breakdown.extremes("abcde", BIT * np.array(n_bytes) * bits, np.array(n_bytes), n=3)
    assert ["".join(row["document"] for row in rows) for rows in found] == [hardest, easiest]


@pytest.mark.parametrize("context", [1, 2, 3, 17, 64])
def test_buckets_of_positions_double_and_lose_no_target(context):
    nats = np.arange(context, dtype=np.float64)
    rows = breakdown.by_position(nats, np.full(context, 3))
    assert sum(row["targets"] for row in rows) == 3 * context
    assert sum(row["targets"] * row["nats_per_token"] for row in rows) == pytest.approx(nats.sum(), abs=1e-3)
    assert (rows[0]["from"], rows[-1]["to"]) == (1, context)
    assert all(b["from"] == a["to"] + 1 and b["to"] in (2 * a["to"], context) for a, b in pairwise(rows))


rng = np.random.default_rng(1)
SIZES, HARD, NOISE = np.full(40, 100), rng.gamma(4.0, 100.0, size=40), rng.normal(size=40)


def _compare(bits, baselines, *limits):
    rows = breakdown.compare_with_baselines(bits, SIZES[: len(bits)], baselines, np.random.default_rng(1))
    return rows, breakdown.summarise_best(rows, *(limits or (False, True)))


@pytest.mark.parametrize(
    ("bits", "limits", "verdict"),
    [
        (HARD - 10 + NOISE, (), BETTER),
        (HARD, (), WITHIN),
        (HARD + 10 + NOISE, (), WORSE),
        (HARD - 0.1, (), BETTER),  # a little less, in each single document
        (np.where(np.arange(40) == 7, HARD - 400, HARD), (), WITHIN),  # much less, in one document alone
        (HARD[:1] - 10, (), NO_INTERVAL),
        (HARD - 10, (True, False), SEES_THE_FUTURE),
        (HARD - 10, (False, False), LOSSY),
    ],
)
def test_the_verdict_is_whether_the_interval_has_0_in_it(bits, limits, verdict):
    own = HARD[: len(bits)]
    (row,), summary = _compare(bits, Baselines({"xz": own.mean() / 100}, {"xz": own}), *limits)
    assert (summary["best_baseline"], summary["verdict"]) == ("xz", verdict)
    difference = (bits - own).mean() / 100
    assert row["difference"] == summary["bits_per_byte_difference"] == pytest.approx(difference, abs=2e-5)
    assert ("difference_low" in row) == ("bits_per_byte_difference_high" in summary) == (len(bits) > 1)


def test_the_best_baseline_may_have_no_bits_of_documents():
    baselines = Baselines({"unigram": 3.0, "bzip2": 1.5, "xz": 2.0}, {"unigram": HARD, "xz": HARD})
    rows, summary = _compare(HARD, baselines)
    found = [(row["baseline"], "difference_low" in row) for row in rows]
    assert found == [("bzip2", False), ("xz", True), ("unigram", True)]
    assert summary["verdict"] == NO_INTERVAL
    assert _compare(HARD, Baselines({}, {})) == ([], {})


def test_baselines_are_read_by_split(tmp_path, write_document_bits):
    totals = {"val": {"xz": {"bits_per_byte": 1.5}}, "test": {"bzip2": {"bits_per_byte": 2.0}}}
    (tmp_path / "b.json").write_text(json.dumps(totals))
    write_document_bits(tmp_path / "b.parquet", {"val": {"xz": [1.0, 2.0]}, "test": {"xz": [3.0]}})
    found = breakdown.read_baselines(tmp_path / "b.json", tmp_path / "b.parquet")
    assert {split: of.bits_per_byte for split, of in found.items()} == {"val": {"xz": 1.5}, "test": {"bzip2": 2.0}}
    assert [of.document_bits["xz"].tolist() for of in found.values()] == [[1.0, 2.0], [3.0]]


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS, st.integers(1, 4))
def test_marks_are_those_of_looking_at_every_ngram(train, val, test, n):
    def grams(stream):
        found = [(start, tuple(stream[start : start + n].tolist())) for start in range(len(stream) - n + 1)]
        return [(start, gram) for start, gram in found if 0 not in gram]

    streams, known = [_stream(val), _stream(test)], {gram for _, gram in grams(_stream(train))}
    for stream, marks in zip(streams, breakdown.mark_found(_stream(train), streams, 0, n), strict=True):
        expected = np.zeros(len(stream), dtype=bool)
        for start, gram in grams(stream):
            expected[start : start + n] |= gram in known
        assert marks.tolist() == expected.tolist()
    assert breakdown.mark_found(_stream(train), [], 0, n) == []
