"""What counts of n-grams predict: interpolated modified Kneser-Ney (Chen and Goodman 1999), over token ids.

    training stream → count_ngrams → one table an order → token_nats of another stream → nats for each of its tokens

    P(w | context) = (a(context w) - D(a(context w))) / a(context) + left(context) · P(w | context, one token shorter)

a counts how often an n-gram was seen, for the longest. For a shorter one it counts what was seen before it: "York"
is frequent, but comes after "New" alone, so where the context is new it is unlikely. Each count gives up a discount D:
`left` is the sum of those of a context, and what is left below single tokens goes to the whole vocabulary alike.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# For once, twice and more often, where a text has too few n-grams to tell: those that KenLM falls back to.
FALLBACK = (0.5, 1.0, 1.5)


class Order(NamedTuple):
    """All n-grams of one length: what each keeps of its context's probability, and what the context hands on.

    A context is known by its place among the n-grams one shorter, an n-gram by the key context · V + last token. So a
    key fits 63 bits, however large the vocabulary is and however long the n-gram.
    """

    keys: Ints  # (n-grams,), in order
    kept: Floats  # (n-grams,)
    left: Floats  # (contexts,); 1 for one that nothing follows


def count_ngrams(stream: NDArray[np.integer], order: int, vocab_size: int) -> list[Order]:
    """Count the n-grams of a stream (T,) of ids below V = vocab_size, from single tokens to `order` ones."""
    tokens = np.asarray(stream, dtype=np.int64)
    assert len(tokens) * vocab_size < 2**63
    orders: list[Order] = []
    places = np.zeros(len(tokens) + 1, dtype=np.int64)  # of the n-gram that begins at each token; here the empty one
    keys, n_contexts = np.zeros(0, dtype=np.int64), 1
    for n in range(1, order + 1):
        contexts, endings = places[:-1], places[1:]
        n_shorter = len(keys)
        shorter, (keys, places) = keys, np.unique(contexts * vocab_size + tokens[n - 1 :], return_inverse=True)
        if n > 1:
            ending_of = np.zeros(len(keys), dtype=np.int64)
            ending_of[places] = endings
            orders.append(_discount(shorter, np.bincount(ending_of, minlength=n_shorter), n_contexts, vocab_size))
            n_contexts = n_shorter
    orders.append(_discount(keys, np.bincount(places, minlength=len(keys)), n_contexts, vocab_size))
    return orders


def _discount(keys: Ints, counts: Ints, n_contexts: int, vocab_size: int) -> Order:
    contexts = keys // vocab_size
    totals = np.bincount(contexts, weights=counts, minlength=n_contexts)
    # The first n-gram of the stream may have nothing before it: then it has no count to give from.
    given = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
    left = np.bincount(contexts, weights=given, minlength=n_contexts)
    seen = np.maximum(totals, 1)
    return Order(keys, (counts - given) / seen[contexts], np.where(totals > 0, left / seen, 1.0))


def discounts(counts: Ints) -> tuple[float, float, float]:
    """What a count of one, of two, and of three or more gives up (Chen and Goodman 1999, equation 26).

    By how many n-grams were seen once to four times: those seen k times would be seen that much less in a new text.

    >>> discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4]))
    (0.5, 1.25, 1.0)
    """
    once, twice, thrice, four = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return FALLBACK
    share = once / (once + 2 * twice)
    found = (share, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice)
    return found if min(found) > 0 else FALLBACK


def token_nats(orders: list[Order], stream: NDArray[np.integer], vocab_size: int) -> Floats:
    """What each token of a stream (T,) but the first costs after those before it: nats (T - 1,).

    >>> orders = count_ngrams(np.array([1, 2, 3] * 50), order=3, vocab_size=4)
    >>> token_nats(orders, np.array([1, 2, 3, 1]), vocab_size=4).round(1).tolist()
    [0.4, 0.0, 0.0]
    """
    tokens = np.asarray(stream, dtype=np.int64)
    probability = np.full(len(tokens), 1 / vocab_size)
    places = np.zeros(len(tokens) + 1, dtype=np.int64)  # of the n-gram that begins at each token; -1 for an unknown one
    for n, (keys, kept, left) in enumerate(orders, start=1):
        if not len(keys):
            break
        contexts = places[:-1]
        wanted = contexts * vocab_size + tokens[n - 1 :]
        found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        known = keys[found] == wanted
        # The first few tokens have no context this long: they stay with what the shorter ones say.
        probability[n - 1 :] *= np.where(contexts >= 0, left[contexts], 1)
        probability[n - 1 :] += np.where(known, kept[found], 0)
        places = np.where(known, found, -1)
    nats: Floats = -np.log(probability[1:])
    return nats
