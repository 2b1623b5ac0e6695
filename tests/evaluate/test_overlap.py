import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.breakdown import mark_found, split_by_found
from llm.tokens.contamination import contamination

DOCUMENTS = st.lists(st.lists(st.integers(1, 3), max_size=7), max_size=5)


def _stream(documents):
    ids = [0, *(id_ for ids in documents for id_ in [*ids, 0])] if documents else []
    return np.array(ids, dtype=np.uint16)


def _grams(stream, n):
    """Start and tokens of each n-gram without an end of text."""
    grams = [(start, tuple(stream[start : start + n].tolist())) for start in range(len(stream) - n + 1)]
    return [(start, gram) for start, gram in grams if 0 not in gram]


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS, st.integers(1, 4))
def test_marks_are_those_of_looking_at_every_ngram(train, val, test, n):
    streams = [_stream(val), _stream(test)]
    known = {gram for _, gram in _grams(_stream(train), n)}
    for stream, marks in zip(streams, mark_found(_stream(train), streams, 0, n), strict=True):
        expected = np.zeros(len(stream), dtype=bool)
        for start, gram in _grams(stream, n):
            expected[start : start + n] |= gram in known
        assert marks.tolist() == expected.tolist()


def test_as_many_are_found_as_the_windows_stage_counts():
    rng = np.random.default_rng(1)
    train, held_out = (_stream(rng.integers(1, 5, size=(30, 40)).tolist()) for _ in range(2))
    counted = contamination(train, held_out, 0, 5)
    (marks,) = mark_found(train, [held_out], 0, 5)
    inside = sum(bool(marks[start : start + 5].all()) for start, _ in _grams(held_out, 5))
    assert counted.found <= inside < counted.ngrams
    assert mark_found(train, [], 0, 3) == []


def test_found_and_not_found_make_up_the_whole():
    rng = np.random.default_rng(2)
    nats, n_bytes, found = rng.gamma(2, size=50), rng.integers(0, 9, size=50), rng.random(50) < 0.3
    rows = split_by_found(nats, n_bytes, found)
    parts = [rows["found"], rows["not_found"]]
    assert sum(part["tokens"] for part in parts) == 50
    assert sum(part["bytes"] for part in parts) == n_bytes.sum()
    assert sum(part["tokens"] * part["nats_per_token"] for part in parts) == pytest.approx(nats.sum(), abs=1e-3)
    assert rows["token_fraction"] == round(found.mean(), 5)
    nothing = split_by_found(np.ones(3), np.ones(3, dtype=np.int64), np.zeros(3, dtype=bool))["found"]
    assert nothing == {"tokens": 0, "bytes": 0, "nats_per_token": None, "bits_per_byte": None}
