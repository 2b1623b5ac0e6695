"""Contamination against plain sets of tuples, in chunks of any size."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.tokens.contamination import contamination

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
    result = contamination(stream(train, train_dtype), stream(held_out, held_dtype), END, n, chunk_tokens=chunk_tokens)
    assert result.ngrams.tolist() == [len(ngrams_of(ids, n)) for ids in held_out]
    assert result.found.tolist() == [sum(ngram in known for ngram in ngrams_of(ids, n)) for ids in held_out]
    assert result.fraction == sum(result.found) / max(sum(result.ngrams), 1)
    assert result.sampled == 1


@pytest.mark.parametrize(
    ("held_out", "found"), [([2**31 + 5, 7, 9], 1), ([5, 7, 9], 0), ([2**16 + 2**31 + 5, 7, 9], 0)]
)
def test_all_bits_of_a_token_count(held_out, found):
    streams = stream([[2**31 + 5, 7, 9]], np.uint32), stream([held_out], np.uint32)
    assert contamination(*streams, END, 3).found.tolist() == [found]


@pytest.mark.parametrize(("most", "sampled"), [(1000, 1), (999, 2), (500, 2), (499, 4), (1, 1024)])
def test_the_sample_is_the_smallest_power_of_two_that_fits(most, sampled):
    held_out = random_stream(1004, seed=0)  # 1000 n-grams of 5
    assert contamination(held_out, held_out, END, 5, max_hashes=most).sampled == sampled


def test_a_sample_counts_its_own_ngrams_in_both_streams():
    held_out, other = random_stream(40004, seed=0), random_stream(40004, seed=1)
    same = contamination(held_out, held_out, END, 5, max_hashes=5000, chunk_tokens=700)
    assert same.sampled == 8
    assert abs(same.ngrams[0] - 5000) < 5 * sqrt(40000 / 8 * 7 / 8)
    assert same.fraction == 1
    assert contamination(other, held_out, END, 5, max_hashes=5000).fraction == 0
    half = np.concatenate([held_out[:20003], [END]])
    fraction = contamination(half, held_out, END, 5, max_hashes=5000).fraction
    assert fraction == pytest.approx(0.5, abs=5 * sqrt(0.25 / same.ngrams[0]))


def test_a_sample_of_small_tokens_is_not_biased():
    # Neighboring numbers have similar bits; a hash that kept them would choose all of them or none.
    held_out = stream([list(range(3, 40003))])
    result = contamination(held_out, held_out, END, 1, max_hashes=10_001)
    assert result.sampled == 4
    assert abs(result.ngrams[0] - 10_000) < 5 * sqrt(10_000 * 3 / 4)
