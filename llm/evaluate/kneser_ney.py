"""N-gram language model: interpolated modified Kneser-Ney (Chen and Goodman 1999), over token ids.

    P(w | context) = (a(context w) - D(a(context w))) / a(context) + backoff(context) · P(w | shorter context)

a is the count of the longest n-grams; for shorter ones it is the number of different tokens seen before them: "York" is
frequent, but follows only "New", so after another context it is unlikely. D is the discount of a count, `backoff` the
sum of a context's discounts; below single tokens the whole vocabulary shares it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Discounts for counts of one, two and more where n-grams are too few to estimate them: KenLM's fallback.
FALLBACK = (0.5, 1.0, 1.5)


class Order(NamedTuple):
    """All n-grams of one length n.

    A key is context · V + last token, with the index of the context among the shorter n-grams, and so fits 63 bits.
    """

    keys: Ints  # (n-grams,), sorted
    discounted: Floats  # (n-grams,), probability after the discount
    backoff: Floats  # (contexts,); 1 for a context that nothing follows


def count_ngrams(stream: NDArray[np.integer], order: int, vocab_size: int) -> list[Order]:
    """Count the n-grams of a stream (T,) of ids below V = vocab_size, for n = 1 … order."""
    tokens = np.asarray(stream, dtype=np.int64)
    assert len(tokens) * vocab_size < 2**63
    orders: list[Order] = []
    ngrams = np.zeros(len(tokens) + 1, dtype=np.int64)  # index of the n-gram that begins at each token; n = 0 here
    keys, n_contexts = np.zeros(0, dtype=np.int64), 1
    for n in range(1, order + 1):
        contexts, endings = ngrams[:-1], ngrams[1:]
        n_shorter = len(keys)
        shorter, (keys, ngrams) = keys, np.unique(contexts * vocab_size + tokens[n - 1 :], return_inverse=True)
        if n > 1:
            ending_of = np.zeros(len(keys), dtype=np.int64)
            ending_of[ngrams] = endings
            orders.append(_discount(shorter, np.bincount(ending_of, minlength=n_shorter), n_contexts, vocab_size))
            n_contexts = n_shorter
    orders.append(_discount(keys, np.bincount(ngrams, minlength=len(keys)), n_contexts, vocab_size))
    return orders


def _discount(keys: Ints, counts: Ints, n_contexts: int, vocab_size: int) -> Order:
    contexts = keys // vocab_size
    totals = np.bincount(contexts, weights=counts, minlength=n_contexts)
    # The first n-gram of the stream may follow no token: its count is 0, and so is its discount.
    discount = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
    backoff = np.bincount(contexts, weights=discount, minlength=n_contexts)
    seen = np.maximum(totals, 1)
    return Order(keys, (counts - discount) / seen[contexts], np.where(totals > 0, backoff / seen, 1.0))


def discounts(counts: Ints) -> tuple[float, float, float]:
    """Return the discounts of counts of one, two, and three or more (Chen and Goodman 1999, equation 26)."""
    once, twice, thrice, four = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return FALLBACK
    y = once / (once + 2 * twice)
    found = (y, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice)
    return found if min(found) > 0 else FALLBACK


def token_nats(orders: list[Order], stream: NDArray[np.integer], vocab_size: int) -> Floats:
    """Return the nats (T - 1,) of each token of a stream (T,) but the first, given the tokens before it.

    >>> orders = count_ngrams(np.array([1, 2, 3] * 50), order=3, vocab_size=4)
    >>> token_nats(orders, np.array([1, 2, 3, 1]), vocab_size=4).round(1).tolist()
    [0.4, 0.0, 0.0]
    """
    tokens = np.asarray(stream, dtype=np.int64)
    probability = np.full(len(tokens), 1 / vocab_size)
    ngrams = np.zeros(len(tokens) + 1, dtype=np.int64)  # index of the n-gram that begins at each token, -1: unseen
    for n, (keys, discounted, backoff) in enumerate(orders, start=1):
        if not len(keys):
            break
        contexts = ngrams[:-1]
        searched = contexts * vocab_size + tokens[n - 1 :]
        found = np.searchsorted(keys, searched).clip(max=len(keys) - 1)
        is_seen = keys[found] == searched
        # The first n - 1 tokens have no context of this length and keep their probability.
        probability[n - 1 :] *= np.where(contexts >= 0, backoff[contexts], 1)
        probability[n - 1 :] += np.where(is_seen, discounted[found], 0)
        ngrams = np.where(is_seen, found, -1)
    nats: Floats = -np.log(probability[1:])
    return nats
