"""Break a split's nats down: by document, source, position in the window, baseline, and n-grams that train has."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.core.tables import read_table
from llm.evaluate.bootstrap import Row, bits_per_byte, ratio_with_interval
from llm.tokens.contamination import Stream, contamination

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MIN_BYTES = 500  # of a hardest or easiest document; in shorter ones the first tokens, which are hard, dominate
BETTER, WITHIN, WORSE = "better, outside of chance", "within chance", "worse, outside of chance"
NO_INTERVAL = "no interval, so chance cannot be excluded"
SEES_THE_FUTURE = "not valid, the model sees what it predicts"
LOSSY = "not valid, the tokens do not hold all of the text"


def sum_by_document(stream: NDArray[np.integer], end_of_text: int, values: NDArray[np.number]) -> Floats:
    """Return sums (D,) over the targets of each document of a stream (N + 1,): its tokens and its end of text.

    >>> sum_by_document(np.array([0, 5, 6, 0, 7, 0]), 0, np.array([1, 2, 4, 8, 16]))
    array([ 7., 24.])
    """
    # Target i is token i + 1: those of a document begin at the index of the end of text before it.
    return np.add.reduceat(values.astype(np.float64), np.flatnonzero(stream == end_of_text)[:-1])


def find_document(counts: Ints, numbers: Ints) -> tuple[Ints, Ints]:
    """Return the document of each of the `numbers` (B,), and its number within the document, which has `counts` (D,).

    >>> find_document(np.array([2, 0, 3]), np.array([0, 1, 2, 4]))
    (array([0, 0, 2, 2]), array([0, 1, 0, 2]))
    """
    ends = np.cumsum(counts)
    documents = np.searchsorted(ends, numbers, side="right")
    return documents, numbers - (ends - counts)[documents]


def by_source(
    sources: Sequence[str], nats: Floats, n_bytes: Ints, n_tokens: Floats, rng: np.random.Generator
) -> list[Row]:
    """Return a row per source, sorted by name, with an interval over its own documents; all arrays (D,)."""
    rows = []
    for source in sorted(set(sources)):
        own = np.array(sources) == source
        counts = {"bytes": int(n_bytes[own].sum()), "tokens": int(n_tokens[own].sum())}
        bits = ratio_with_interval("bits_per_byte", nats[own] / math.log(2), n_bytes[own], rng)
        rows.append({"source": source, "documents": int(own.sum()), **counts, **bits})
    return rows


def extremes(names: Sequence[str], nats: Floats, n_bytes: Ints, n: int) -> tuple[list[Row], list[Row]]:
    """Return the n documents with the most bits per byte, and the n with the fewest; short ones do not count."""
    bits = np.round(nats / math.log(2) / n_bytes, 5)
    long = np.flatnonzero(n_bytes >= min(MIN_BYTES, n_bytes.max()))
    hardest, easiest = (long[np.argsort(keys[long], kind="stable")][:n].tolist() for keys in (-bits, bits))

    def rows(documents: list[int]) -> list[Row]:
        return [{"document": names[i], "bytes": int(n_bytes[i]), "bits_per_byte": float(bits[i])} for i in documents]

    return rows(hardest), rows(easiest)


def by_position(position_nats: Floats, position_targets: Ints) -> list[Row]:
    """Return the mean loss by position (C,) in the window: 1 token before the target, 2, 3–4, 5–8, … up to C."""
    rows, first = [], 0
    while first < len(position_nats):
        last = min(max(2 * first, 1), len(position_nats))
        if targets := int(position_targets[first:last].sum()):
            nats = float(position_nats[first:last].sum()) / targets
            rows.append({"from": first + 1, "to": last, "targets": targets, "nats_per_token": round(nats, 5)})
        first = last
    return rows


class Baselines(NamedTuple):
    """Bits per byte of a split by baseline, and bits of its documents (D,) where a baseline has them."""

    bits_per_byte: dict[str, float]
    document_bits: dict[str, Floats]


def read_baselines(metrics: Path, document_bits: Path) -> dict[str, Baselines]:
    """Read the outputs of the stage `baselines` by split."""
    table = read_table(document_bits).to_pandas()
    found = {}
    for split, systems in json.loads(metrics.read_text(encoding="utf-8")).items():
        bits = {str(name): column.to_numpy() for name, column in table[table["split"] == split].iloc[:, 2:].items()}
        found[split] = Baselines({name: of["bits_per_byte"] for name, of in systems.items()}, bits)
    return found


def compare_with_baselines(bits: Floats, n_bytes: Ints, baselines: Baselines, rng: np.random.Generator) -> list[Row]:
    """Compare the model's bits of documents (D,) with those of each baseline, the best baseline first.

    The interval is that of a paired bootstrap; one document has none, nor has a baseline without bits of documents.
    """
    own = float(bits.sum()) / int(n_bytes.sum())
    rows = []
    for name, total in sorted(baselines.bits_per_byte.items(), key=lambda item: item[1]):
        row: Row = {"baseline": name, "bits_per_byte": total}
        if name in baselines.document_bits:
            row |= ratio_with_interval("difference", bits - baselines.document_bits[name], n_bytes, rng)
        rows.append(row | {"difference": round(own - total, 5)})  # of the totals, as the tables show them
    return rows


def summarise_best(rows: list[Row], non_causal: bool, is_lossless: bool) -> Row:
    """Return the comparison with the best baseline and whether it is outside of chance, {} without a baseline."""
    if not rows:
        return {}
    best = rows[0]
    figures = {f"bits_per_byte_{key}": value for key, value in best.items() if key.startswith("difference")}
    return {"best_baseline": best["baseline"], **figures, "verdict": _verdict(best, non_causal, is_lossless)}


def _verdict(best: Row, non_causal: bool, is_lossless: bool) -> str:
    if non_causal or not is_lossless:
        return SEES_THE_FUTURE if non_causal else LOSSY
    if "difference_low" not in best:
        return NO_INTERVAL
    if best["difference_high"] < 0:
        return BETTER
    return WORSE if best["difference_low"] > 0 else WITHIN


def mark_found(train: Stream, held_out: Sequence[NDArray[np.integer]], end_of_text: int, ngram: int) -> list[Flags]:
    """Return for each held-out stream whether each of its tokens lies in an n-gram of `ngram` tokens that train has.

    No n-gram crosses an end of text, which is never found.

    >>> train, held_out = np.array([0, 5, 6, 7, 8, 0]), np.array([0, 1, 6, 7, 8, 2, 0])
    >>> mark_found(train, [held_out], end_of_text=0, ngram=3)[0].astype(int).tolist()
    [0, 0, 1, 1, 1, 0, 0]
    """
    if not held_out:
        return []
    joined = np.concatenate(held_out)
    # All n-grams are looked up, none is sampled out; small chunks stay in the cache.
    starts = contamination(train, joined, end_of_text, ngram, max(len(joined), 1), 1 << 18).found_starts
    # +1 where a found n-gram begins and -1 after its end: the running sum is the number of n-grams over a token.
    begun, ended = (np.bincount(at, minlength=len(joined) + 1) for at in (starts, starts + ngram))
    return np.split(np.cumsum(begun - ended)[:-1] > 0, np.cumsum([*map(len, held_out)])[:-1])


def split_by_found(nats: NDArray[np.floating], n_bytes: Ints, found: Flags) -> dict[str, Any]:
    """Return the cost of the targets (N,) found in train, and of all others; a ratio over no tokens is None.

    `n_bytes` (N,) counts the bytes of each token, 0 for an end of text, which never counts as found.
    """
    rows: dict[str, Any] = {"token_fraction": round(float(found.mean()), 5)}
    for name, of in (("found", found), ("not_found", ~found)):
        total, n_tokens, size = float(nats[of].sum(dtype=np.float64)), int(of.sum()), int(n_bytes[of].sum())
        per_token = round(total / n_tokens, 5) if n_tokens else None
        rows[name] = {"tokens": n_tokens, "bytes": size, "nats_per_token": per_token}
        rows[name]["bits_per_byte"] = bits_per_byte(total, size) if size else None
    return rows
