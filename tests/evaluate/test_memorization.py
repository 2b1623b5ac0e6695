import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.memorization import (
    LONG,
    SHORT,
    Continued,
    Run,
    copies,
    draw_places,
    longest_runs,
    verbatim_lengths,
    verdict,
)

END = 0
documents = st.lists(st.lists(st.integers(1, 9), max_size=9), max_size=6)


def _stream(texts):
    return np.array([END, *(token for text in texts for token in [*text, END])] if texts else [], dtype=np.uint16)


def _draw(stream, length, n, seed=1):
    return draw_places(stream, END, length, n, np.random.default_rng(seed)).tolist()


@given(documents, st.integers(1, 7), st.integers(1, 20))
def test_places_are_different_ones_with_so_many_tokens_of_one_document_behind_them(texts, length, n):
    stream = _stream(texts)
    possible = [at for at in range(len(stream) - length + 1) if END not in stream[at : at + length]]
    places = _draw(stream, length, n)
    assert places == sorted(set(places))
    assert set(places) <= set(possible)
    assert len(places) == min(n, len(possible))


def test_every_place_is_as_likely_as_any_other():
    stream = _stream([[1] * 5, [2], [3] * 2])
    drawn = np.bincount([place for seed in range(2000) for place in _draw(stream, 2, 2, seed)])
    assert np.flatnonzero(drawn).tolist() == [1, 2, 3, 4, 9]
    assert drawn[drawn > 0] == pytest.approx(800, rel=0.1)


def test_the_same_seed_draws_the_same_places_and_another_seed_others():
    stream = _stream([[1] * 500])
    assert _draw(stream, 3, 20) == _draw(stream, 3, 20) != _draw(stream, 3, 20, seed=2)


def test_what_comes_back_ends_at_the_first_other_token():
    truth = np.array([[1, 2, 3, 4]] * 4)
    written = np.array([[1, 2, 3, 4], [9, 2, 3, 4], [1, 9, 3, 4], [1, 2, 3, 9]])
    assert verbatim_lengths(written, truth).tolist() == [4, 0, 1, 3]


def _continued(hits, n):
    return Continued(np.arange(n), 64, np.array([SHORT] * hits + [SHORT - 1] * (n - hits), dtype=np.int64))


def test_figures_are_worked_out_as_by_hand():
    lengths = np.array([LONG, LONG - 1, SHORT, SHORT - 1, 0])
    expected = {"prefixes": 5, "verbatim_25": 0.6, "verbatim_50": 0.2, "mean_verbatim_tokens": 29.6}
    assert Continued(np.arange(5), 64, lengths).figures() == expected


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ((40, 200), (10, 200), True),
        ((10, 200), (40, 200), False),
        ((12, 200), (10, 200), False),
        ((3, 200), (0, 200), False),
        ((7, 200), (0, 200), True),
        ((1, 1), (0, 1), False),
        ((9, 9), (0, 9), True),
        ((200, 200), (200, 200), False),
    ],
)
def test_it_copies_where_more_of_train_than_of_test_comes_back_beyond_chance(train, test, expected):
    assert copies(_continued(*train), _continued(*test)) is expected
    told = verdict(_continued(*train), _continued(*test))
    assert told.startswith("**The model copies**" if expected else "**No sign that the model copies**")
    assert f"{train[0]} of {train[1]} prefixes of train" in told
    assert f"{test[0]} of {test[1]} of test" in told


def test_chance_by_hand():
    # (6 + 1) / 202 - 1 / 202 is 0.0297, two standard errors are 0.0276; with five hits 0.0248 and 0.0259.
    assert [copies(_continued(hits, 200), _continued(0, 200)) for hits in (5, 6)] == [False, True]


def test_without_prefixes_of_one_split_nothing_is_claimed():
    none, some = _continued(0, 0), _continued(3, 4)
    assert copies(none, some) is copies(some, none) is None
    assert none.figures() == {"prefixes": 0}
    assert "No document of train has 114 tokens" in verdict(none, some)
    told = verdict(some, none)
    assert told.startswith("3 of 4 prefixes of train")
    assert "No document of test has 114 tokens" in told


def _slow_run(text, train):
    """Every run by its length; of the longest the first in the stream, and then in the text."""
    found = [
        (-n, place, start)
        for start in range(len(text))
        for place in range(len(train))
        for n in range(1, len(text) - start + 1)
        if place + n <= len(train) and text[start : start + n] == train[place : place + n]
    ]
    return Run(-min(found)[0], min(found)[2], min(found)[1]) if found else None


few = st.lists(st.integers(0, 3), max_size=12)


@given(st.lists(few, max_size=4), st.lists(st.integers(0, 2), max_size=30), st.integers(1, 9))
def test_the_longest_run_is_the_one_found_by_trying_all(texts, train, chunk_tokens):
    found = longest_runs([np.array(text, dtype=np.int64) for text in texts], np.array(train, np.uint16), chunk_tokens)
    assert found == [_slow_run(text, train) for text in texts]


def test_a_run_ends_with_its_text():
    train = np.array([0, 1, 2, 3, 4, 5, 0])
    assert longest_runs([np.array([1, 2]), np.array([3, 4])], train) == [Run(2, 0, 1), Run(2, 0, 3)]


def test_a_whole_text_is_found_across_the_border_of_two_chunks():
    train = np.random.default_rng(1).integers(1, 2000, size=1000)
    assert longest_runs([train[480:560]], train, chunk_tokens=500) == [Run(80, 0, 480)]
