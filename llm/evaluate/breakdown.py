"""Break the nats of a split down by document, by source and by position in the window.

    nats of targets (N,) ──sum_by_document──► nats of documents (D,) ──► by_source, extremes
    nats by position (C,) ──by_position──► 1 token before it, 2, 3–4, 5–8, …

A row is a dict of plain, rounded values.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm.evaluate.bootstrap import Row, ratio_with_interval

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MIN_BYTES = 500  # of a hardest or easiest document; in shorter ones the first tokens, which are hard, dominate


def sum_by_document(stream: NDArray[np.integer], end_of_text: int, values: NDArray[np.number]) -> Floats:
    """Return sums (D,) over the targets of each document of a stream (N + 1,): its tokens and its end of text.

    >>> sum_by_document(np.array([0, 5, 6, 0, 7, 0]), 0, np.array([1, 2, 4, 8, 16]))
    array([ 7., 24.])
    """
    # Target i is token i + 1: those of a document begin at the index of the end of text before it.
    return np.add.reduceat(values.astype(np.float64), np.flatnonzero(stream == end_of_text)[:-1])


def by_source(
    sources: Sequence[str], nats: Floats, n_bytes: Ints, n_tokens: Ints, rng: np.random.Generator
) -> list[Row]:
    """Return a row per source, sorted by name, with an interval over its own documents; all arrays (D,)."""
    rows = []
    for source in sorted(set(sources)):
        own = np.array(sources) == source
        row = {"source": source, "documents": int(own.sum())}
        row |= {"bytes": int(n_bytes[own].sum()), "tokens": int(n_tokens[own].sum())}
        rows.append(row | ratio_with_interval("bits_per_byte", nats[own] / math.log(2), n_bytes[own], rng))
    return rows


def extremes(names: Sequence[str], nats: Floats, n_bytes: Ints, n: int) -> tuple[list[Row], list[Row]]:
    """Return the n documents with the most bits per byte, and the n with the fewest.

    Only documents of MIN_BYTES or more, or of the size of the largest, count. Ties keep their order.

    >>> names, nats = ["a", "b", "c"], math.log(2) * np.array([1000.0, 900.0, 3000.0])
    >>> hardest, easiest = extremes(names, nats, np.array([1000, 600, 20]), n=1)
    >>> hardest + easiest
    [{'document': 'b', 'bytes': 600, 'bits_per_byte': 1.5}, {'document': 'a', 'bytes': 1000, 'bits_per_byte': 1.0}]
    """
    bits = np.round(nats / math.log(2) / n_bytes, 5)
    long = np.flatnonzero(n_bytes >= min(MIN_BYTES, n_bytes.max()))

    def rows(keys: Floats) -> list[Row]:
        chosen = long[np.argsort(keys[long], kind="stable")][:n].tolist()
        return [{"document": names[i], "bytes": int(n_bytes[i]), "bits_per_byte": float(bits[i])} for i in chosen]

    return rows(-bits), rows(bits)


def by_position(position_nats: Floats, position_targets: Ints) -> list[Row]:
    """Return the mean loss by position (C,) in the window: 1 token before the target, 2, 3–4, 5–8, … up to C.

    >>> rows = by_position(np.array([8.0, 6.0, 5.0, 5.0, 4.0]), np.array([2, 2, 2, 2, 1]))
    >>> rows[2]
    {'from': 3, 'to': 4, 'targets': 4, 'nats_per_token': 2.5}
    >>> rows[3]
    {'from': 5, 'to': 5, 'targets': 1, 'nats_per_token': 4.0}
    """
    rows, first = [], 0
    while first < len(position_nats):
        last = min(max(2 * first, 1), len(position_nats))
        if targets := int(position_targets[first:last].sum()):
            nats = float(position_nats[first:last].sum()) / targets
            rows.append({"from": first + 1, "to": last, "targets": targets, "nats_per_token": round(nats, 5)})
        first = last
    return rows
