"""What knows nothing of neural networks, on the same bytes: compressors, and counts of n-grams.

Each gives bits for each byte of a text: alone, and given the training text. A compressor is given a text by
putting it before: the size of both together less the size of the first.
"""

import lzma
import math

import numpy as np
import zstandard
from numpy.typing import NDArray

DISCOUNT = 0.75


def xz_size(text: bytes) -> int:
    """Bytes after `xz -9e`, whose window of 64 MiB holds all of a small corpus."""
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def zstd_size(text: bytes) -> int:
    """Bytes after `zstd -19 --long`, a window of 128 MiB with long-distance matching."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(text), window_log=27, enable_ldm=True
    )
    return len(zstandard.ZstdCompressor(compression_params=parameters).compress(text))


def bits_per_byte(size: int, n_bytes: int) -> float:
    """Bits for each of a text's bytes, from the bytes that it takes compressed."""
    return round(8 * size / n_bytes, 5)


class NGrams:
    """Counts of n-grams of token ids, and what they predict: interpolated absolute discounting.

    P(w | context) = max(n(context w) - d, 0) / n(context) + d · kinds(context) / n(context) · P(w | shorter),
    down to the uniform distribution over the vocabulary; a context never seen leaves all to the shorter one
    (Ney, Essen and Kneser 1994). The probabilities of all words after a context sum to one.
    """

    def __init__(self, stream: NDArray[np.integer], order: int, vocab_size: int):
        self.order, self.vocab_size = order, vocab_size
        assert vocab_size ** (order - 1) < 2**62, "keys of n-grams would not fit 64 bits"
        self._tables = []
        for n in range(1, order + 1):
            grams, counts = np.unique(self._keys(stream, n), return_counts=True)
            contexts, first = np.unique(grams // vocab_size, return_index=True)
            kinds = np.diff(np.append(first, len(grams)))
            self._tables.append((grams, counts, contexts, np.add.reduceat(counts, first), kinds))

    def _keys(self, stream: NDArray[np.integer], n: int) -> NDArray[np.int64]:
        """Each n-gram of the stream as one number: ids as digits, the newest the lowest."""
        ids = np.asarray(stream, dtype=np.int64)
        keys = np.zeros(max(len(ids) - n + 1, 0), dtype=np.int64)
        for place in range(n):
            keys = keys * self.vocab_size + ids[place : place + len(keys)]
        return keys

    def total_nats(self, stream: NDArray[np.integer]) -> float:
        """What all tokens but the first of a stream cost, each after up to order - 1 before it."""
        probability = np.full(len(stream) - 1, 1 / self.vocab_size)
        for n, (grams, counts, contexts, context_counts, kinds) in enumerate(self._tables, start=1):
            keys = self._keys(stream, n)[1 if n == 1 else 0 :]
            # The first few tokens have no context of n - 1: they stay with what the shorter ones say.
            scored = probability[len(probability) - len(keys) :]
            count = _look_up(keys, grams, counts)
            context_count = _look_up(keys // self.vocab_size, contexts, context_counts)
            kind = _look_up(keys // self.vocab_size, contexts, kinds)
            seen = context_count > 0
            scored[seen] = (
                np.maximum(count[seen] - DISCOUNT, 0) + DISCOUNT * kind[seen] * scored[seen]
            ) / context_count[seen]
        return float(-np.log(probability).sum())

    def bits_per_byte(self, stream: NDArray[np.integer], n_bytes: int) -> float:
        """The same in bits for each byte of the text."""
        return round(self.total_nats(stream) / math.log(2) / n_bytes, 5)


def _look_up(keys: NDArray[np.int64], known: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """values[i] where keys equal known[i], 0 where a key is not known; `known` is sorted."""
    if not len(known):
        return np.zeros(len(keys), dtype=np.int64)
    place = np.searchsorted(known, keys).clip(max=len(known) - 1)
    found: NDArray[np.int64] = np.where(known[place] == keys, values[place], 0)
    return found
