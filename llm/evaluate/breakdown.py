"""Where a split's nats come from: which documents and sources, which place in the window, how sure the model was.

    nats of targets (N,) ──sum_by_document──► nats of documents (D,) ──► by_source, extremes
    nats by place (C,)   ──by_place──►  1 token before it, 2, 3–4, 5–8, …
    top probabilities (N,), whether they were right (N,)  ──calibration──►  ten bins and one error

A row is a dict of plain values, rounded, ready for a table, a TSV or a JSON.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm.evaluate.bootstrap import Row, ratio_with_interval

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST_BYTES = 500  # of a hardest or easiest document: the first tokens of all are hard, and of short ones they are most


def sum_by_document(stream: NDArray[np.integer], end_of_text: int, values: NDArray[np.number]) -> Floats:
    """Sums (D,) of a value for each target of a stream (N,), by document: its tokens, and the end of text after it.

    >>> sum_by_document(np.array([0, 5, 6, 0, 7, 0]), 0, np.array([1, 2, 4, 8, 16]))
    array([ 7., 24.])
    """
    ends = np.flatnonzero(stream == end_of_text)
    # The target after token i of the stream is target i: those of a document begin at the end of text before it.
    return np.add.reduceat(values.astype(np.float64), ends[:-1])


def by_source(
    sources: Sequence[str], nats: Floats, n_bytes: Ints, n_tokens: Ints, rng: np.random.Generator
) -> list[Row]:
    """A row a source, in alphabetical order, with an interval over its own documents; all arrays (D,).

    Tokens count the end of text after each document, as the nats do.
    """
    of_document = np.array(sources)
    rows = []
    for source in sorted(set(sources)):
        own = of_document == source
        total_bytes = int(n_bytes[own].sum())
        counts = {"documents": int(own.sum()), "bytes": total_bytes, "tokens": int(n_tokens[own].sum())}
        bits = ratio_with_interval("bits_per_byte", nats[own] / math.log(2), n_bytes[own], rng)
        rows.append({"source": source, **counts, **bits})
    return rows


def extremes(names: Sequence[str], nats: Floats, n_bytes: Ints, n: int) -> tuple[list[Row], list[Row]]:
    """The n documents with the most bits per byte, the most first, and the n with the fewest, the fewest first.

    Of those with LEAST_BYTES or more; in a split without such a one, of all. Equal ones stand in their order.

    >>> names, nats = ["a", "b", "c"], math.log(2) * np.array([1000.0, 900.0, 3000.0])
    >>> hardest, easiest = extremes(names, nats, np.array([1000, 600, 20]), n=1)
    >>> hardest
    [{'document': 'b', 'bytes': 600, 'bits_per_byte': 1.5}]
    >>> easiest
    [{'document': 'a', 'bytes': 1000, 'bits_per_byte': 1.0}]
    """
    bits = np.round(nats / math.log(2) / n_bytes, 5)
    long = np.flatnonzero(n_bytes >= min(LEAST_BYTES, n_bytes.max()))

    def rows(order: Ints) -> list[Row]:
        chosen = long[order][:n].tolist()
        return [{"document": names[i], "bytes": int(n_bytes[i]), "bits_per_byte": float(bits[i])} for i in chosen]

    return rows(np.argsort(-bits[long], kind="stable")), rows(np.argsort(bits[long], kind="stable"))


def by_place(position_nats: Floats, position_targets: Ints) -> list[Row]:
    """Mean loss by place in the window, both (C,): a bucket for 1 token before the target, 2, 3–4, 5–8, … up to C.

    >>> rows = by_place(np.array([8.0, 6.0, 5.0, 5.0, 4.0]), np.array([2, 2, 2, 2, 1]))
    >>> rows[2]
    {'from': 3, 'to': 4, 'targets': 4, 'nats_per_token': 2.5}
    >>> rows[3]
    {'from': 5, 'to': 5, 'targets': 1, 'nats_per_token': 4.0}
    """
    rows, first = [], 0
    while first < len(position_nats):
        last = min(max(2 * first, 1), len(position_nats))  # of a bucket from `first` up to it
        targets = int(position_targets[first:last].sum())
        if targets:
            nats = float(position_nats[first:last].sum()) / targets
            rows.append({"from": first + 1, "to": last, "targets": targets, "nats_per_token": round(nats, 5)})
        first = last
    return rows
