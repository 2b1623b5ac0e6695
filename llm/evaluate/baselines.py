"""What knows nothing of the text, or nothing of neural networks, on the same bytes: chance and compressors.

Each gives bits for each document of a held-out text: alone, and given the training text. Counts of n-grams stand in
`llm.evaluate.kneser_ney`.
"""

import bz2
import lzma
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bits = dict[str, Floats]  # of each document (D,), by baseline
Texts = Mapping[str, Sequence[bytes]]  # the documents of each split

# The baselines that have bits of each document; bzip2 sorts all of a block at once, so it has none.
BY_DOCUMENT = ("xz_given_train", "zstd_given_train", "xz", "zstd", "kneser_ney_5gram", "unigram", "uniform")
# One row a held-out document, in the order of its split: how many bits it costs each baseline.
DOCUMENT_BITS = pa.schema(
    [("split", pa.string()), ("doc_id", pa.string()), *((name, pa.float64()) for name in BY_DOCUMENT)]
)

ZSTD_WINDOW = 27  # log2 of its bytes
SKIMMED = 0.9  # of the training text is decoded 16 compressed bytes at a time, the rest byte by byte


def xz_bits(train: bytes, texts: Texts) -> dict[str, Floats]:
    """Return the bits (D,) of each split's documents by `xz -9e`, whose window is 64 MiB.

    A document's bits are those that a decompressor has to read to write it, after the training text and the documents
    of its split before it. They add up to the size of the training text and the split, less that of the former. The
    index at the file's end, some 40 bytes, belongs to no document.
    """
    return {split: _decoded_bits(train, documents) for split, documents in texts.items()}


def _decoded_bits(train: bytes, documents: Sequence[bytes]) -> Floats:
    packed = lzma.compress(b"".join([train, *documents]), preset=9 | lzma.PRESET_EXTREME)
    decoder = lzma.LZMADecompressor()
    n_read, n_decoded = 0, 0
    positions: list[int] = []
    for end in np.cumsum([len(train), *map(len, documents)]):
        while n_decoded < end:
            step = 16 if n_decoded < SKIMMED * len(train) else 1
            n_decoded += len(decoder.decompress(packed[n_read : n_read + step]))
            n_read += step
        positions.append(n_read)
    return np.diff(positions) * np.float64(8)


def zstd_bits(train: bytes, texts: Texts) -> dict[str, Floats]:
    """Return the bits (D,) of each split's documents by `zstd --ultra -22 --long`, given train by `--patch-from`.

    The window is 128 MiB. Whole blocks of up to 128 KiB are coded at once: the size of all of a split is divided among
    its documents as it would be if each of them ended its block.
    """
    n_bytes = len(train) + max((sum(map(len, documents)) for documents in texts.values()), default=0)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        22, source_size=n_bytes, window_log=ZSTD_WINDOW, enable_ldm=True
    )
    reachable = train[-(1 << ZSTD_WINDOW) :]
    dictionary = zstandard.ZstdCompressionDict(reachable, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if train else None
    # One compressor for all splits: to read the training text takes longer than to compress what is held out.
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    return {split: _divided_bits(compressor, documents) for split, documents in texts.items()}


def _divided_bits(compressor: zstandard.ZstdCompressor, documents: Sequence[bytes]) -> Floats:
    text = b"".join(documents)
    if not text:
        return np.zeros(len(documents))
    n_bits = 8.0 * len(compressor.compress(text))
    stream, end = compressor.compressobj(size=len(text)), zstandard.COMPRESSOBJ_FLUSH_BLOCK
    sizes = np.array([len(stream.compress(own) + stream.flush(end)) if own else 0 for own in documents])
    return n_bits * sizes / sizes.sum()


def bzip2_size(text: bytes) -> int:
    """Bytes after `bzip2 -9`, which sorts 900 kB at a time: it sees nothing of a text that stands before them."""
    return len(bz2.compress(text, 9))
