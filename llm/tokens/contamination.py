"""Count the n-grams of held-out tokens that also occur in the training tokens.

    train      0 5 6 7 8 0 9 9 0            0 is <|endoftext|>; no n-gram crosses it
    held out   0 1 6 7 8 0 5 6 0
    n = 3      1 6 7 ✗   6 7 8 ✓            found: 1 of 2, all of them in document 0

Streams are read in chunks, so memory does not grow with the training text. N-grams are compared by hashes of 64 bits:
with 2 million held out and 10 billion in train, one run in a thousand has a collision.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Stream = NDArray[np.integer]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

BASE = np.uint64(0xD1342543DE82EF95)  # of the polynomial; odd, so that no token's bits are lost


class Contamination(NamedTuple):
    """N-grams of held-out text, with repeats, and those that occur anywhere in train, by document."""

    ngrams: Ints
    found: Ints
    sampled: int  # one n-gram in this many was looked up, chosen by its hash; all counts are of those
    found_starts: Ints  # where each n-gram that was found begins in the held-out stream, in order

    @property
    def fraction(self) -> float:
        """Return the fraction of n-grams that were found; 0.0 if there are none."""
        return int(self.found.sum()) / max(int(self.ngrams.sum()), 1)


def contamination(
    train: Stream,
    held_out: Stream,
    end_of_text: int,
    ngram: int,
    max_hashes: int = 2_000_000,
    chunk_tokens: int = 1 << 22,
) -> Contamination:
    """Look up the n-grams of `ngram` tokens of the held-out stream in the training stream.

    Both are laid out `0 d d d 0 d d 0`, or empty. Of more than `max_hashes` n-grams only a fraction 1/k is looked up, k
    the smallest power of two that leaves about `max_hashes`. Memory: 40 bytes per hash and 100 per token of a chunk.

    >>> train, held_out = np.array([0, 5, 6, 7, 8, 0, 9, 9, 0]), np.array([0, 1, 6, 7, 8, 0, 5, 6, 0])
    >>> result = contamination(train, held_out, end_of_text=0, ngram=3)
    >>> result.ngrams.tolist(), result.found.tolist(), result.fraction
    ([2, 0], [1, 0], 0.5)
    """
    ends = np.flatnonzero(held_out == end_of_text)  # before the first document and after each
    n_ngrams = int(np.maximum(np.diff(ends) - ngram, 0).sum())
    sampled_bits = max(-(-n_ngrams // max_hashes) - 1, 0).bit_length()
    chunks = [(np.zeros(0, np.int64), np.zeros(0, np.uint64))]
    chunks += _ngram_hashes(held_out, end_of_text, ngram, sampled_bits, chunk_tokens)
    starts, hashes = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    distinct, number = np.unique(hashes, return_inverse=True)
    in_train = np.zeros(len(distinct), dtype=np.bool_)
    for _, keys in _ngram_hashes(train, end_of_text, ngram, sampled_bits, chunk_tokens) if len(distinct) else ():
        keys.sort()  # sorted keys are looked up ten times as fast, which pays for the sorting
        at = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
        in_train[at[distinct[at] == keys]] = True
    found_starts, n_documents = starts[in_train[number]], max(len(ends) - 1, 0)
    ngrams, found = (np.bincount(np.searchsorted(ends, at) - 1, minlength=n_documents) for at in (starts, found_starts))
    return Contamination(ngrams, found, 1 << sampled_bits, found_starts)


def _ngram_hashes(
    stream: Stream, end_of_text: int, ngram: int, sampled_bits: int, chunk_tokens: int
) -> Iterator[tuple[Ints, Hashes]]:
    """Yield starts and hashes of the n-grams of each chunk, of those whose hash begins with `sampled_bits` zeros."""
    for start in range(0, len(stream) - ngram + 1, chunk_tokens):
        chunk = stream[start : start + chunk_tokens + ngram - 1]
        n_starts = len(chunk) - ngram + 1
        n_ends = np.concatenate([[0], np.cumsum(chunk == end_of_text)])
        mixed = _mix(chunk.astype(np.uint64))
        keys = np.zeros(n_starts, dtype=np.uint64)
        for k in range(ngram):
            keys *= BASE
            keys += mixed[k : k + n_starts]
        kept = n_ends[ngram:] == n_ends[:-ngram]  # none crosses a document's end
        if sampled_bits:
            kept &= keys >> np.uint64(64 - sampled_bits) == 0
        at = np.flatnonzero(kept)
        yield start + at, keys[at]


def _mix(numbers: Hashes) -> Hashes:
    """Spread each number over all 64 bits (SplitMix64, Steele et al. 2014); the high bits choose the sample."""
    numbers = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
