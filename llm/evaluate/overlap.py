"""Held-out tokens that occur in train verbatim, and the cost of the text without them.

    train      0 5 6 7 8 0          n = 3, 0 is <|endoftext|>
    held out   0 1 6 7 8 2 0
    found        ✗ ✓ ✓ ✓ ✗ ✗        6 7 8 is an n-gram of train: its tokens may have been memorized

`llm.tokens.contamination` counts the same n-grams by document.
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
    """Return for each held-out stream whether each of its tokens lies in an n-gram of `ngram` tokens that train has.

    No n-gram crosses an end of text, which is never found. Memory: some 10 · (ngram + 1) bytes per held-out token.

    >>> train, held_out = np.array([0, 5, 6, 7, 8, 0]), np.array([0, 1, 6, 7, 8, 2, 0])
    >>> mark_found(train, [held_out], end_of_text=0, ngram=3)[0].astype(int).tolist()
    [0, 0, 1, 1, 1, 0, 0]
    """
    starts, ngrams = [], []
    for stream in held_out:
        windows = sliding_window_view(stream, ngram) if len(stream) >= ngram else np.zeros((0, ngram), stream.dtype)
        starts.append(np.flatnonzero((windows != end_of_text).all(axis=1)))
        ngrams.append(windows[starts[-1]])
    if not ngrams:
        return []
    found = np.split(_is_found(train, np.concatenate(ngrams), end_of_text), np.cumsum([*map(len, starts)]))
    marks = []
    for stream, own_starts, is_found in zip(held_out, starts, found, strict=False):
        # +1 where a found n-gram begins and -1 after its end: the running sum is the number of n-grams over a token.
        steps = np.zeros(len(stream) + 1, dtype=np.int64)
        np.add.at(steps, own_starts[is_found], 1)
        np.add.at(steps, own_starts[is_found] + ngram, -1)
        marks.append(np.cumsum(steps[:-1]) > 0)
    return marks


def _is_found(train: Stream, ngrams: NDArray[np.integer], end_of_text: int) -> Flags:
    """Return whether train has each n-gram (G, n); each is looked up as a document of its own."""
    documents = np.insert(ngrams, 0, end_of_text, axis=1)
    stream = np.append(documents.ravel(), np.asarray(end_of_text, dtype=ngrams.dtype))
    # All n-grams are looked up, none is sampled out; small chunks stay in the cache.
    by_document = contamination(
        train, stream if len(ngrams) else stream[:0], end_of_text, ngrams.shape[1], max(len(ngrams), 1), 1 << 18
    ).by_document
    return np.asarray(by_document[:, 2] > 0)


def split_by_found(nats: NDArray[np.floating], n_bytes: NDArray[np.int64], found: Flags) -> dict[str, Any]:
    """Return the cost of the targets (N,) found in train and of all others.

    `n_bytes` are a token's own, 0 for an end of text, which is never found. Ratios are None where there is no token.

    >>> bits = np.log(2) * np.array([1.0, 2.0, 9.0])
    >>> rows = split_by_found(bits, np.array([2, 2, 3]), np.array([True, True, False]))
    >>> rows["found"]
    {'tokens': 2, 'bytes': 4, 'nats_per_token': 1.03972, 'bits_per_byte': 0.75}
    >>> rows["token_fraction"]
    0.66667
    """
    rows: dict[str, Any] = {"token_fraction": round(float(found.mean()), 5)}
    for name, of in (("found", found), ("not_found", ~found)):
        total, n_tokens, size = float(nats[of].sum(dtype=np.float64)), int(of.sum()), int(n_bytes[of].sum())
        rows[name] = {
            "tokens": n_tokens,
            "bytes": size,
            "nats_per_token": round(total / n_tokens, 5) if n_tokens else None,
            "bits_per_byte": bits_per_byte(total, size) if size else None,
        }
    return rows
