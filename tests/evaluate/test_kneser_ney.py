"""N-gram probabilities against hand-worked cases, and against the formula written out slowly."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.evaluate.baselines import FALLBACK, count_ngrams, discounts, token_nats

V = 7
STREAM = np.array([1, 2, 3, 1, 2, 4, 1, 2, 3, 3, 0, 1], dtype=np.uint16)


def _probability(stream, order, vocab_size, context, word):
    orders = count_ngrams(np.array(stream), order, vocab_size)
    return math.exp(-token_nats(orders, np.array([*context, word]), vocab_size)[-1])


class _Slow:
    """The same with a dictionary for each order, token by token."""

    def __init__(self, stream, order, vocab_size):
        self.vocab_size = vocab_size
        grams = {n: [tuple(stream[at : at + n]) for at in range(len(stream) - n + 1)] for n in range(1, order + 1)}
        self.counts = {n: Counter(gram[1:] for gram in set(grams[n + 1])) for n in range(1, order)}
        self.counts[order] = Counter(grams[order])
        self.discounts, self.followers = {}, defaultdict(dict)
        for n, counts in self.counts.items():
            self.discounts[n] = discounts(np.array([0, *counts.values()]))
            for gram, count in counts.items():
                self.followers[gram[:-1]][gram[-1]] = count

    def probability(self, context, word):
        shorter = self.probability(context[1:], word) if context else 1 / self.vocab_size
        followers = self.followers[context]
        if not followers:
            return shorter
        discount = self.discounts[len(context) + 1]
        given = {word: discount[min(count, 3) - 1] for word, count in followers.items()}
        kept = followers[word] - given[word] if word in followers else 0
        return (kept + sum(given.values()) * shorter) / sum(followers.values())

    def nats(self, text, order):
        contexts = [tuple(text[max(0, at - order + 1) : at]) for at in range(len(text))]
        return [-math.log(self.probability(contexts[at], text[at])) for at in range(1, len(text))]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 4), max_size=80), st.lists(st.integers(0, 5), min_size=2, max_size=20), st.integers(1, 5)
)
def test_it_is_the_formula_written_out(stream, text, order):
    nats = token_nats(count_ngrams(np.array(stream, dtype=np.int64), order, 6), np.array(text), 6)
    np.testing.assert_allclose(nats, _Slow(stream, order, 6).nats(text, order), rtol=1e-9)


def test_so_it_is_on_a_long_text_with_discounts_of_its_own():
    rng = np.random.default_rng(1)
    # Zipf's law leaves n-grams seen once, twice and more often.
    stream, text = (np.minimum(rng.zipf(1.5, size=n), 299) for n in (5000, 200))
    slow = _Slow(stream.tolist(), 3, 300)
    assert all(found != FALLBACK for found in slow.discounts.values())
    nats = token_nats(count_ngrams(stream, 3, 300), text, 300)
    np.testing.assert_allclose(nats, slow.nats(text.tolist(), 3), rtol=1e-9)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # 8, 3, 2 and 1 n-grams seen once to four times: Y = 8/14; 1 - 2Y·3/8, 2 - 3Y·2/3, 3 - 4Y·1/2.
        ([1] * 8 + [2] * 3 + [3] * 2 + [4] + [9, 0], (4 / 7, 6 / 7, 13 / 7)),
        ([], FALLBACK),
        ([2, 3, 4], FALLBACK),
        ([1, 3, 4], FALLBACK),
        ([1, 2, 4], FALLBACK),
        ([1, 2] + [3] * 9, FALLBACK),  # one would be negative
    ],
)
def test_discounts_by_hand(counts, expected):
    assert discounts(np.array(counts, dtype=np.int64)) == pytest.approx(expected)


def test_ids_of_a_large_vocabulary_do_not_collide():
    large = 200_000
    stream = [large - 1, large - 2, large - 3] * 50
    assert _probability(stream, 5, large, stream[:4], stream[4]) > 0.95
    assert _probability(stream, 5, large, stream[:4], stream[3]) < 0.05
