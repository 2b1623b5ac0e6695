import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.memorization import LONG, SHORT, Recall, Run, copies, longest_runs, sample_positions

END = 0


def _stream(texts):
    return np.array([END, *(token for text in texts for token in [*text, END])] if texts else [], dtype=np.uint16)


def _draw(stream, length, n, seed=1):
    return sample_positions(stream, END, length, n, np.random.default_rng(seed)).tolist()


@given(st.lists(st.lists(st.integers(1, 9), max_size=9), max_size=6), st.integers(1, 7), st.integers(1, 20))
def test_positions_are_distinct_and_within_documents(texts, length, n):
    stream = _stream(texts)
    possible = [at for at in range(len(stream) - length + 1) if END not in stream[at : at + length]]
    positions = _draw(stream, length, n)
    assert positions == sorted(set(positions))
    assert set(positions) <= set(possible)
    assert len(positions) == min(n, len(possible))


def test_every_position_is_equally_likely():
    stream = _stream([[1] * 5, [2], [3] * 2])
    drawn = np.bincount([position for seed in range(1000) for position in _draw(stream, 2, 2, seed)])
    assert np.flatnonzero(drawn).tolist() == [1, 2, 3, 4, 9]
    assert drawn[drawn > 0] == pytest.approx(400, rel=0.15)


def test_metrics_are_fractions_of_the_prefixes():
    recall = Recall(np.arange(5), 64, np.array([LONG, LONG - 1, SHORT, SHORT - 1, 0]))
    expected = {"prefixes": 5, "verbatim_25": 0.6, "verbatim_50": 0.2, "mean_verbatim_tokens": 29.6}
    assert recall.metrics() == expected
    assert Recall(np.arange(0), 64, np.arange(0)).metrics() == {"prefixes": 0}


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ((40, 200), (10, 200), True),
        ((10, 200), (40, 200), False),
        # (6 + 1) / 202 - 1 / 202 is 0.0297, two standard errors are 0.0276; with five hits 0.0248 and 0.0259.
        ((5, 200), (0, 200), False),
        ((6, 200), (0, 200), True),
        ((200, 200), (200, 200), False),
        ((3, 4), (0, 0), None),
        ((0, 0), (3, 4), None),
    ],
)
def test_a_model_copies_if_more_of_train_comes_back_beyond_chance(train, test, expected):
    recalls = [Recall(np.arange(n), 64, np.repeat([SHORT, SHORT - 1], [hits, n - hits])) for hits, n in (train, test)]
    assert copies(*recalls) is expected


def _slow_run(text, train):
    """Every run by its length; of the longest the first in the stream, and then in the text."""
    found = [
        (-n, position, start)
        for start in range(len(text))
        for position in range(len(train))
        for n in range(1, len(text) - start + 1)
        if position + n <= len(train) and text[start : start + n] == train[position : position + n]
    ]
    return Run(-min(found)[0], min(found)[2], min(found)[1]) if found else None


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=4),
    st.lists(st.integers(0, 2), max_size=30),
    st.integers(1, 9),
)
def test_the_longest_run_is_that_of_trying_all(texts, train, chunk_tokens):
    found = longest_runs([np.array(text, dtype=np.int64) for text in texts], np.array(train, np.uint16), chunk_tokens)
    assert found == [_slow_run(text, train) for text in texts]


def test_a_run_crosses_chunks():
    train = np.random.default_rng(1).integers(1, 2000, size=1000)
    assert longest_runs([train[480:560]], train, chunk_tokens=500) == [Run(80, 0, 480)]
