"""What knows nothing of the text, or nothing of neural networks, on the same bytes: chance and compressors.

Each gives bits for each byte of a text: alone, and given the training text. A compressor is given a text by
putting it before: the size of both together less the size of the first. Counts of n-grams stand in
`llm.evaluate.kneser_ney`.
"""

import bz2
import lzma
import math

import zstandard


def xz_size(text: bytes) -> int:
    """Bytes after `xz -9e`, whose window of 64 MiB holds all of a small corpus."""
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def zstd_size(text: bytes) -> int:
    """Bytes after `zstd -19 --long`, a window of 128 MiB with long-distance matching."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(text), window_log=27, enable_ldm=True
    )
    return len(zstandard.ZstdCompressor(compression_params=parameters).compress(text))


def bzip2_size(text: bytes) -> int:
    """Bytes after `bzip2 -9`, which sorts 900 kB at a time: it sees nothing of a text that stands before them."""
    return len(bz2.compress(text, 9))


def uniform_bits(n_tokens: int, vocab_size: int) -> float:
    """Bits of tokens that are all alike to what predicts them, as to a network that has learnt nothing yet.

    >>> uniform_bits(3, 16)
    12.0
    """
    return n_tokens * math.log2(vocab_size)


def bits_per_byte(n_bits: float, n_bytes: int) -> float:
    """Bits for each of a text's bytes, rounded to 5 places."""
    return round(n_bits / n_bytes, 5)
