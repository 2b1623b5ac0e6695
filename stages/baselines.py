"""The held-out text under compressors and n-gram counts: what a model has to beat. Knows no model."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from llm.core import stage
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param
from llm.core.tables import TableWriter, iterate_rows, read_table
from llm.evaluate.baselines import DOCUMENT_BITS, Bits, Texts, bzip2_size, xz_bits, zstd_bits
from llm.evaluate.breakdown import sum_by_document
from llm.evaluate.kneser_ney import count_ngrams, token_nats
from llm.evaluate.params import BaselinesParams
from llm.tokens.windows import read_info, read_stream

ORDERS = {"kneser_ney_5gram": 5, "unigram": 1}


def main(
    baselines: Annotated[BaselinesParams, Param("baselines")],
    corpus: Input = Path("data/corpus"),
    windows: Input = Path("data/windows"),
    metrics: Output = Path("metrics/baselines.json"),
    document_bits: Output = Path("data/baselines.parquet"),
) -> None:
    """Bits per byte of val and test, for each baseline alone and given the training text, or the first part of it.

    `document_bits` (Parquet) has what each held-out document costs, to compare a model with.
    """
    train = b"".join(_texts(corpus / "train.parquet"))
    n_bytes = min(baselines.train_bytes or len(train), len(train))
    fraction = n_bytes / max(len(train), 1)
    texts = {split: documents for split in ("val", "test") if (documents := _texts(corpus / f"{split}.parquet"))}
    bits = _compress(train[:n_bytes], texts)
    for split, counted in _count(windows, list(texts), fraction).items():
        bits[split] |= counted
    report = {}
    with TableWriter(document_bits, DOCUMENT_BITS) as table:
        for split, documents in texts.items():
            keys = {"split": [split] * len(documents), "doc_id": read_table(corpus / f"{split}.parquet", ["doc_id"])[0]}
            table.append(pa.table(keys | bits[split], schema=DOCUMENT_BITS))
            sums = {name: float(own.sum()) for name, own in bits[split].items()}
            sums["bzip2"] = 8 * bzip2_size(b"".join(documents))
            size = sum(map(len, documents))
            report[split] = {name: round(n_bits / size, 5) for name, n_bits in sums.items()}
    write_json(metrics, report)


def _texts(path: Path) -> list[bytes]:
    """The documents of a split."""
    return [row["text"].encode() for row in iterate_rows(path, ["text"])]


def _compress(train: bytes, texts: Texts) -> dict[str, Bits]:
    """Bits of each held-out document, by split and compressor."""
    bits: dict[str, Bits] = {split: {} for split in texts}
    # The compressors let go of Python's lock: as many work at once as there are cores. The longest come first.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [("xz_given_train", pool.submit(xz_bits, train, {split: own})) for split, own in texts.items()]
        jobs += [("zstd_given_train", pool.submit(zstd_bits, train, texts))]
        jobs += [("xz", pool.submit(xz_bits, b"", texts)), ("zstd", pool.submit(zstd_bits, b"", texts))]
        for name, job in tqdm(jobs, desc="compress", unit=" texts"):
            for split, own in job.result().items():
                bits[split][name] = own
    return bits


def _count(windows: Path, held_out: list[str], fraction: float) -> dict[str, Bits]:
    """Bits of each document of the held-out streams of tokens: by counts of n-grams in a fraction of train, by chance.

    As the model's, they have the end of text after the document in them.
    """
    train, info = read_stream(windows, "train"), read_info(windows)
    train = train[: math.ceil(fraction * len(train))]
    bits: dict[str, Bits] = {split: {} for split in held_out}
    for name, order in ORDERS.items() if held_out else ():
        orders = count_ngrams(train, order, info.vocab_size)
        for split in held_out:
            stream = read_stream(windows, split)
            nats = token_nats(orders, stream, info.vocab_size)
            bits[split][name] = sum_by_document(stream, info.end_of_text, nats) / math.log(2)
    for split in held_out:
        stream = read_stream(windows, split)
        costs = np.full(len(stream) - 1, math.log2(info.vocab_size))
        bits[split]["uniform"] = sum_by_document(stream, info.end_of_text, costs)
    return bits


if __name__ == "__main__":
    stage.run(main)
