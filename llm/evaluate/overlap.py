"""Held-out tokens that stand in train too, word for word, and what the rest of the text costs without them.

    train      0 5 6 7 8 0          n = 3, 0 is <|endoftext|>
    held out   0 1 6 7 8 2 0
    found        ✗ ✓ ✓ ✓ ✗ ✗        6 7 8 is an n-gram of train: its tokens may have been learnt by heart

`llm.tokens.contamination` counts the n-grams that are found, by document; here each token is told apart. Both ask it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from llm.evaluate.bootstrap import bits_per_byte
from llm.tokens.contamination import Stream, contamination

Flags = NDArray[np.bool_]


def mark_found(train: Stream, held_out: Sequence[NDArray[np.integer]], end_of_text: int, ngram: int) -> list[Flags]:
    """For each held-out stream, whether each of its tokens lies in an n-gram of `ngram` tokens that train has too.

    Streams are laid out as in `llm.tokens.windows`; no n-gram goes across an end of text, which is never found. Memory:
    some 10 · (ngram + 1) bytes a held-out token.

    >>> train, held_out = np.array([0, 5, 6, 7, 8, 0]), np.array([0, 1, 6, 7, 8, 2, 0])
    >>> mark_found(train, [held_out], end_of_text=0, ngram=3)[0].astype(int).tolist()
    [0, 0, 1, 1, 1, 0, 0]
    """
    starts, grams = [], []
    for stream in held_out:
        windows = sliding_window_view(stream, ngram) if len(stream) >= ngram else np.zeros((0, ngram), stream.dtype)
        starts.append(np.flatnonzero((windows != end_of_text).all(axis=1)))
        grams.append(windows[starts[-1]])
    found = _is_found(train, np.concatenate(grams), end_of_text) if grams else np.zeros(0, dtype=np.bool_)
    marks = []
    for stream, places, own in zip(
        held_out, starts, np.split(found, np.cumsum([len(of) for of in starts])), strict=False
    ):
        # +1 where a found n-gram begins and -1 behind it: the running sum says how many lie over a token.
        steps = np.zeros(len(stream) + 1, dtype=np.int64)
        np.add.at(steps, places[own], 1)
        np.add.at(steps, places[own] + ngram, -1)
        marks.append(np.cumsum(steps[:-1]) > 0)
    return marks


def _is_found(train: Stream, grams: NDArray[np.integer], end_of_text: int) -> Flags:
    """Whether each n-gram (G, n) stands in train: each is looked up as a document of its own."""
    documents = np.insert(grams, 0, end_of_text, axis=1)
    stream = np.append(documents.ravel(), np.asarray(end_of_text, dtype=grams.dtype))
    # All of them are looked up, none by sample; small chunks stay in the cache.
    by_document = contamination(
        train, stream if len(grams) else stream[:0], end_of_text, grams.shape[1], max(len(grams), 1), 1 << 18
    ).by_document
    return np.asarray(by_document[:, 2] > 0)


def with_and_without(nats: NDArray[np.floating], n_bytes: NDArray[np.int64], found: Flags) -> dict[str, Any]:
    """Cost of the tokens that were found in train and of all other ones; arrays (N,), a target each.

    `n_bytes` are a token's own, 0 for the end of a text, which is never found and always costs. Bits per byte and nats
    are None where there is no such token.

    >>> bits = np.log(2) * np.array([1.0, 2.0, 9.0])
    >>> rows = with_and_without(bits, np.array([2, 2, 3]), np.array([True, True, False]))
    >>> rows["found"]
    {'tokens': 2, 'bytes': 4, 'nats_per_token': 1.03972, 'bits_per_byte': 0.75}
    >>> rows["not_found"]
    {'tokens': 1, 'bytes': 3, 'nats_per_token': 6.23832, 'bits_per_byte': 3.0}
    >>> rows["token_share"]
    0.66667
    """
    rows = {"token_share": round(float(found.mean()), 5)}
    return rows | {name: _cost(nats[of], n_bytes[of]) for name, of in (("found", found), ("not_found", ~found))}


def _cost(nats: NDArray[np.floating], n_bytes: NDArray[np.int64]) -> dict[str, Any]:
    total, size = float(nats.sum(dtype=np.float64)), int(n_bytes.sum())
    return {
        "tokens": len(nats),
        "bytes": size,
        "nats_per_token": round(total / len(nats), 5) if len(nats) else None,
        "bits_per_byte": bits_per_byte(total, size) if size else None,
    }
