"""Baselines of bits per byte that a model has to beat: compressors, n-gram counts and a uniform distribution.

The n-gram model over token ids is interpolated modified Kneser-Ney (Chen and Goodman 1999):

    P(w | context) = (a(context w) - D(a(context w))) / a(context) + backoff(context) · P(w | shorter context)

a is the count of the longest n-grams; for shorter ones it is the number of different tokens seen before them: "York" is
frequent, but follows only "New", so after another context it is unlikely. D is the discount of a count, `backoff` the
sum of a context's discounts; below single tokens the whole vocabulary shares it.
"""

import bz2
import lzma
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core.tables import TableWriter, iterate_rows, read_table
from llm.evaluate.breakdown import sum_by_document
from llm.tokens.windows import read_info, read_stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = dict[str, dict[str, Floats]]  # of each document (D,), by split and baseline
Texts = Mapping[str, Sequence[bytes]]  # documents by split

# Baselines with bits of single documents; bzip2 sorts blocks of 900 kB, so it has none.
BY_DOCUMENT = ("xz_given_train", "zstd_given_train", "xz", "zstd", "kneser_ney_5gram", "unigram", "uniform")
DOCUMENT_BITS = pa.schema(
    [("split", pa.string()), ("doc_id", pa.string()), *((name, pa.float64()) for name in BY_DOCUMENT)]
)
ORDERS = {"kneser_ney_5gram": 5, "unigram": 1}
# Discounts for counts of one, two and more where n-grams are too few to estimate them: KenLM's fallback.
FALLBACK = (0.5, 1.0, 1.5)
ZSTD_WINDOW = 27  # log2 of its bytes
COARSE = 0.9  # fraction of the training text that is decoded in steps of 16 compressed bytes, the rest byte by byte


def measure_baselines(
    corpus: Path, windows: Path, train_bytes: int | None, document_bits: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the bits per byte of val and test by split and baseline; write `document_bits`, a row per document."""
    train = b"".join(_read_texts(corpus / "train.parquet"))
    n_bytes = min(train_bytes or len(train), len(train))
    texts = {split: found for split in ("val", "test") if (found := _read_texts(corpus / f"{split}.parquet"))}
    bits = compress(train[:n_bytes], texts)
    predicted = predict(windows, [*texts], n_bytes / max(len(train), 1))
    metrics = {}
    with TableWriter(document_bits, DOCUMENT_BITS) as table:
        for split, documents in texts.items():
            by_name = bits[split] | predicted[split]
            keys = {"split": [split] * len(documents), "doc_id": read_table(corpus / f"{split}.parquet", ["doc_id"])[0]}
            table.append(pa.table(keys | by_name, schema=DOCUMENT_BITS))
            totals = {name: float(own.sum()) for name, own in by_name.items()}
            totals["bzip2"] = 8 * len(bz2.compress(b"".join(documents), 9))
            size = sum(map(len, documents))
            metrics[split] = {name: {"bits_per_byte": round(total / size, 5)} for name, total in totals.items()}
    return metrics


def _read_texts(path: Path) -> list[bytes]:
    return [row["text"].encode() for row in iterate_rows(path, ["text"])]


def compress(train: bytes, texts: Texts) -> Bits:
    """Return the bits of each document by each compressor, alone and given the training text."""
    bits: Bits = {split: {} for split in texts}
    # The compressors release the GIL, so the threads run in parallel. The longest jobs start first.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [("xz_given_train", pool.submit(xz_bits, train, {split: own})) for split, own in texts.items()]
        jobs += [("zstd_given_train", pool.submit(zstd_bits, train, texts))]
        jobs += [("xz", pool.submit(xz_bits, b"", texts)), ("zstd", pool.submit(zstd_bits, b"", texts))]
        for name, job in tqdm(jobs, desc="compress", unit=" texts"):
            for split, own in job.result().items():
                bits[split][name] = own
    return bits


def xz_bits(train: bytes, texts: Texts) -> dict[str, Floats]:
    """Return the bits (D,) of each split's documents by `xz -9e`, whose window is 64 MiB.

    These are the bits that a decompressor reads to write a document; the index at the end of the file counts for none.
    """
    bits = {}
    for split, documents in texts.items():
        packed = lzma.compress(b"".join([train, *documents]), preset=9 | lzma.PRESET_EXTREME)
        decoder, n_read, n_decoded, positions = lzma.LZMADecompressor(), 0, 0, list[int]()
        for end in np.cumsum([len(train), *map(len, documents)]):
            while n_decoded < end:
                step = 16 if n_decoded < COARSE * len(train) else 1
                n_decoded += len(decoder.decompress(packed[n_read : n_read + step]))
                n_read += step
            positions.append(n_read)
        bits[split] = np.diff(positions) * np.float64(8)
    return bits


def zstd_bits(train: bytes, texts: Texts) -> dict[str, Floats]:
    """Return the bits (D,) of each split's documents by `zstd --ultra -22 --long`, given train by `--patch-from`.

    A split's size is divided among its documents by their sizes when each ends its block (of up to 128 KiB).
    """
    n_bytes = len(train) + max((sum(map(len, documents)) for documents in texts.values()), default=0)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        22, source_size=n_bytes, window_log=ZSTD_WINDOW, enable_ldm=True
    )
    reachable = train[-(1 << ZSTD_WINDOW) :]
    dictionary = zstandard.ZstdCompressionDict(reachable, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if train else None
    # One compressor for all splits: reading the training text takes longer than compressing the held-out text.
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


def predict(windows: Path, splits: list[str], fraction: float) -> Bits:
    """Return the bits of documents, ends included, by n-grams of a fraction of train, and with equal probabilities."""
    train, info = read_stream(windows, "train"), read_info(windows)
    train = train[: math.ceil(fraction * len(train))]
    streams = {split: read_stream(windows, split) for split in splits}
    bits: Bits = {split: {} for split in splits}
    for name, order in ORDERS.items() if splits else ():
        orders = count_ngrams(train, order, info.vocab_size)
        for split, stream in streams.items():
            nats = token_nats(orders, stream, info.vocab_size)
            bits[split][name] = sum_by_document(stream, info.end_of_text, nats) / math.log(2)
    for split, stream in streams.items():
        uniform = np.full(len(stream) - 1, math.log2(info.vocab_size))
        bits[split]["uniform"] = sum_by_document(stream, info.end_of_text, uniform)
    return bits


class Order(NamedTuple):
    """All n-grams of one length n.

    A key is context · V + last token, with the index of the context among the shorter n-grams, and so fits 63 bits.
    """

    keys: Ints  # (n-grams,), sorted
    discounted: Floats  # (n-grams,), probability after the discount
    backoff: Floats  # (contexts,); 1 for a context that nothing follows


def count_ngrams(stream: NDArray[np.integer], order: int, vocab_size: int) -> list[Order]:
    """Count the n-grams of a stream (T,) of ids below V = vocab_size, for n = 1 … order."""
    tokens = np.asarray(stream, dtype=np.int64)
    assert len(tokens) * vocab_size < 2**63
    orders: list[Order] = []
    ngrams = np.zeros(len(tokens) + 1, dtype=np.int64)  # index of the n-gram that begins at each token; n = 0 here
    keys, n_contexts = np.zeros(0, dtype=np.int64), 1
    for n in range(1, order + 1):
        contexts, endings = ngrams[:-1], ngrams[1:]
        n_shorter = len(keys)
        shorter, (keys, ngrams) = keys, np.unique(contexts * vocab_size + tokens[n - 1 :], return_inverse=True)
        if n > 1:
            ending_of = np.zeros(len(keys), dtype=np.int64)
            ending_of[ngrams] = endings
            orders.append(_discount(shorter, np.bincount(ending_of, minlength=n_shorter), n_contexts, vocab_size))
            n_contexts = n_shorter
    orders.append(_discount(keys, np.bincount(ngrams, minlength=len(keys)), n_contexts, vocab_size))
    return orders


def _discount(keys: Ints, counts: Ints, n_contexts: int, vocab_size: int) -> Order:
    contexts = keys // vocab_size
    totals = np.bincount(contexts, weights=counts, minlength=n_contexts)
    # The first n-gram of the stream may follow no token: its count is 0, and so is its discount.
    discount = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
    backoff = np.bincount(contexts, weights=discount, minlength=n_contexts)
    seen = np.maximum(totals, 1)
    return Order(keys, (counts - discount) / seen[contexts], np.where(totals > 0, backoff / seen, 1.0))


def discounts(counts: Ints) -> tuple[float, float, float]:
    """Return the discounts of counts of one, two, and three or more (Chen and Goodman 1999, equation 26)."""
    once, twice, thrice, four = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return FALLBACK
    y = once / (once + 2 * twice)
    found = (y, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice)
    return found if min(found) > 0 else FALLBACK


def token_nats(orders: list[Order], stream: NDArray[np.integer], vocab_size: int) -> Floats:
    """Return the nats (T - 1,) of each token of a stream (T,) but the first, given the tokens before it.

    >>> orders = count_ngrams(np.array([1, 2, 3] * 50), order=3, vocab_size=4)
    >>> token_nats(orders, np.array([1, 2, 3, 1]), vocab_size=4).round(1).tolist()
    [0.4, 0.0, 0.0]
    """
    tokens = np.asarray(stream, dtype=np.int64)
    probability = np.full(len(tokens), 1 / vocab_size)
    ngrams = np.zeros(len(tokens) + 1, dtype=np.int64)  # index of the n-gram that begins at each token, -1: unseen
    for n, (keys, discounted, backoff) in enumerate(orders, start=1):
        if not len(keys):
            break
        contexts = ngrams[:-1]
        searched = contexts * vocab_size + tokens[n - 1 :]
        found = np.searchsorted(keys, searched).clip(max=len(keys) - 1)
        is_seen = keys[found] == searched
        # The first n - 1 tokens have no context of this length and keep their probability.
        probability[n - 1 :] *= np.where(contexts >= 0, backoff[contexts], 1)
        probability[n - 1 :] += np.where(is_seen, discounted[found], 0)
        ngrams = np.where(is_seen, found, -1)
    nats: Floats = -np.log(probability[1:])
    return nats
