"""Contamination against plain sets of tuples, in chunks of any size."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.tokens.contamination import Contamination, contamination

END = 2
DOCUMENTS = st.lists(st.lists(st.sampled_from([0, 1, 3, 65535]), max_size=12), max_size=5)
DTYPES = st.sampled_from([np.uint16, np.uint32])


def stream(documents, dtype=np.uint16):
    joined = [END] if documents else []
    for ids in documents:
        joined += [*ids, END]
    return np.array(joined, dtype=dtype)


def ngrams_of(ids, n):
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


def random_stream(n_tokens, seed):
    """Return one document whose n-grams are all but surely distinct."""
    return stream([np.random.default_rng(seed).integers(3, 60000, n_tokens).tolist()])


@given(DOCUMENTS, DOCUMENTS, st.integers(1, 5), st.integers(1, 9), DTYPES, DTYPES)
@example([], [], 1, 1, np.uint16, np.uint16)
@example([[0] * 9], [], 3, 4, np.uint16, np.uint32)
@example([], [[0] * 9, [], [1]], 3, 4, np.uint32, np.uint16)
def test_counts_are_those_of_plain_sets(train, held_out, n, chunk_tokens, train_dtype, held_dtype):
    known = {ngram for ids in train for ngram in ngrams_of(ids, n)}
    expected = [
        [number, len(ngrams_of(ids, n)), sum(ngram in known for ngram in ngrams_of(ids, n))]
        for number, ids in enumerate(held_out)
    ]
    result = contamination(stream(train, train_dtype), stream(held_out, held_dtype), END, n, chunk_tokens=chunk_tokens)
    assert result.by_document.tolist() == expected
    assert result.by_document.shape == (len(held_out), 3)
    assert (result.ngrams, result.found) == tuple(sum(row[column] for row in expected) for column in (1, 2))
    assert result.sampled == 1


@pytest.mark.parametrize(
    ("train", "held_out", "n", "found", "ngrams"),
    [
        ([[5, 6], [7, 8]], [[5, 6, 7, 8]], 3, 0, 2),  # none crosses a document's end
        ([[5, 6, 7, 8]], [[5, 6], [7, 8]], 3, 0, 0),
        ([[5, 6]], [[6, 5]], 2, 0, 1),  # order counts
        ([[2**31 + 5, 7, 9]], [[2**31 + 5, 7, 9]], 3, 1, 1),
        ([[2**31 + 5, 7, 9]], [[5, 7, 9]], 3, 0, 1),
        ([[2**31 + 5, 7, 9]], [[2**16 + 2**31 + 5, 7, 9]], 3, 0, 1),
        ([[7, 8, 9, 10, 11, 12, 13]], [[5, 5, 8, 9, 10, 11, 5, 5]], 4, 1, 5),
    ],
)
@pytest.mark.parametrize("chunk_tokens", [1, 2, 3, 5, 8, 100])
def test_an_ngram_is_within_a_document_and_across_chunks(train, held_out, n, found, ngrams, chunk_tokens):
    streams = stream(train, np.uint32), stream(held_out, np.uint32)
    result = contamination(*streams, END, n, chunk_tokens=chunk_tokens)
    assert (result.found, result.ngrams) == (found, ngrams)


def test_the_fraction_is_of_the_ngrams_and_zero_of_none():
    nothing = np.zeros((0, 3), dtype=np.int64)
    assert [Contamination(n, found, nothing, 1, nothing).fraction for n, found in ((8, 2), (0, 0))] == [0.25, 0.0]


@pytest.mark.parametrize(("most", "sampled"), [(1000, 1), (999, 2), (500, 2), (499, 4), (250, 4), (3, 512), (1, 1024)])
def test_the_sample_is_the_smallest_power_of_two_that_fits(most, sampled):
    held_out = random_stream(1004, seed=0)  # 1000 n-grams of 5
    assert contamination(held_out, held_out, END, 5, max_hashes=most).sampled == sampled


def test_a_sample_counts_its_own_ngrams_in_both_streams():
    held_out, other = random_stream(40004, seed=0), random_stream(40004, seed=1)
    same = contamination(held_out, held_out, END, 5, max_hashes=5000, chunk_tokens=700)
    assert same.sampled == 8
    assert abs(same.ngrams - 5000) < 5 * sqrt(40000 / 8 * 7 / 8)
    assert same.found == same.ngrams
    assert contamination(other, held_out, END, 5, max_hashes=5000).found == 0
    half = np.concatenate([held_out[:20003], [END]])
    fraction = contamination(half, held_out, END, 5, max_hashes=5000).fraction
    assert fraction == pytest.approx(0.5, abs=5 * sqrt(0.25 / same.ngrams))


@pytest.mark.parametrize("n", [1, 2])
def test_a_sample_of_small_tokens_is_not_biased(n):
    # Neighboring numbers have similar bits; a hash that kept them would choose all of them or none.
    held_out = stream([list(range(3, 40003))])
    n_ngrams = 40000 - n + 1
    result = contamination(held_out, held_out, END, n, max_hashes=n_ngrams // 4 + 1)
    assert result.sampled == 4
    assert abs(result.ngrams - n_ngrams / 4) < 5 * sqrt(n_ngrams / 4 * 3 / 4)
