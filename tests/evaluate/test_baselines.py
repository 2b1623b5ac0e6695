import math
import random

import numpy as np
import pytest

from llm.evaluate.baselines import NGrams, bits_per_byte, xz_size, zstd_size

V = 7
STREAM = np.array([1, 2, 3, 1, 2, 4, 1, 2, 3, 3, 0, 1], dtype=np.uint16)


def _probability(model, context, word):
    return math.exp(model.total_nats(np.array(context)) - model.total_nats(np.array([*context, word])))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "context",
    [[1, 2], [3, 3], [5, 2], [2, 5], [5, 6], [1]],
    ids=["seen", "seen_once", "first_unseen", "last_unseen", "unseen", "short"],
)
def test_the_probabilities_of_all_words_after_a_context_sum_to_one(order, context):
    model = NGrams(STREAM, order, V)
    probabilities = [_probability(model, context, word) for word in range(V)]
    assert sum(probabilities) == pytest.approx(1)
    assert min(probabilities) > 0


def test_a_unigram_is_worked_out_as_by_hand():
    # Of four tokens 1 is two; three kinds were seen, and each leaves 3/4 of a count to the five words alike.
    model = NGrams(np.array([0, 1, 1, 2]), 1, 5)
    left = 0.75 * 3 / 4 / 5
    expected = [0.25 / 4 + left, 1.25 / 4 + left, 0.25 / 4 + left, left, left]
    assert [_probability(model, [3], word) for word in range(5)] == pytest.approx(expected)


def test_a_bigram_is_worked_out_as_by_hand():
    # After 1 came 1 once and 2 once: each keeps 1/4 of 2, and 3/4 goes by the unigram's share.
    unigram, bigram = (NGrams(np.array([0, 1, 1, 2]), order, 5) for order in (1, 2))
    for word, seen in ((0, 0), (1, 0.125), (2, 0.125), (3, 0)):
        assert _probability(bigram, [1], word) == pytest.approx(seen + 0.75 * _probability(unigram, [1], word))


def test_after_a_context_never_seen_the_shorter_one_decides():
    longer, shorter = NGrams(STREAM, 3, V), NGrams(STREAM, 2, V)
    assert _probability(longer, [5, 2], 3) == pytest.approx(_probability(shorter, [5, 2], 3))
    assert _probability(longer, [1, 2], 3) > _probability(shorter, [1, 2], 3)


def test_the_cost_of_a_text_is_that_of_its_tokens_one_after_the_other():
    model = NGrams(STREAM, 3, V)
    costs = [-math.log(_probability(model, STREAM[:place].tolist(), STREAM[place])) for place in range(1, len(STREAM))]
    assert model.total_nats(STREAM) == pytest.approx(sum(costs))


def test_counts_of_nothing_are_uniform():
    model = NGrams(np.zeros(0, dtype=np.uint16), 3, V)
    assert model.total_nats(STREAM) == pytest.approx((len(STREAM) - 1) * math.log(V))


def test_trigrams_beat_unigrams_on_a_text_that_repeats():
    text = np.tile(np.array([1, 2, 3, 4, 5]), 20)
    costs = [NGrams(text, order, V).bits_per_byte(text, len(text)) for order in (1, 2, 3)]
    assert costs[0] > math.log2(5) * 0.95
    assert costs[2] < 0.5


def test_on_a_text_without_order_longer_contexts_help_nobody():
    rng = np.random.default_rng(1)
    train, held_out = rng.integers(V, size=300), rng.integers(V, size=300)
    costs = [NGrams(train, order, V).total_nats(held_out) for order in (1, 3)]
    assert costs[1] > costs[0] > 0.97 * 299 * math.log(V)


def test_ids_of_a_large_vocabulary_do_not_collide():
    large = 200_000
    model = NGrams(np.array([199_999, 199_998] * 50), 3, large)
    assert _probability(model, [199_998, 199_999], 199_998) > 0.95
    assert _probability(model, [199_998, 199_999], 199_999) < 0.05


def test_bits_per_byte_of_ngrams_divide_by_the_texts_bytes():
    model = NGrams(STREAM, 2, V)
    expected = model.total_nats(STREAM) / math.log(2) / 13
    assert model.bits_per_byte(STREAM, 13) == pytest.approx(expected, abs=1e-5)


def test_three_bytes_for_twelve_are_two_bits_each():
    assert bits_per_byte(3, 12) == 2


@pytest.fixture
def text():
    return "".join(random.Random(1).choices("abcdefghij klmnop", k=40_000)).encode()


@pytest.mark.parametrize("size", [xz_size, zstd_size])
def test_given_the_text_itself_a_text_costs_almost_nothing(size, text):
    alone = size(text)
    assert 0.4 * len(text) < alone < 0.7 * len(text)  # log2(17) / 8 is 0.51
    assert 0 < size(text + text) - alone < 0.02 * alone


@pytest.mark.parametrize("size", [xz_size, zstd_size])
def test_given_another_text_a_text_costs_what_it_costs_alone(size, text):
    half = len(text) // 2
    assert size(text) - size(text[:half]) == pytest.approx(size(text[half:]), rel=0.05)


@pytest.mark.parametrize("size", [xz_size, zstd_size])
def test_even_nothing_takes_a_few_bytes(size):
    assert 0 < size(b"") < 64
