"""Make a tokenizer and encode documents: train or load it, write token ids, measure how well it suits the text.

The figure of merit is bytes per token: the fewer tokens a text takes, the more of it fits a context.
"""

import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core.tables import SPLITS, TableWriter, iterate_batches, iterate_rows, read_table, tokens_schema
from llm.tokens.bpe import train_bpe
from llm.tokens.params import TokenizeParams
from llm.tokens.pretrained import path_under, read_pretrained
from llm.tokens.special import UNKNOWN
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.words import train_chars, train_words

BATCH_BYTES = 8_000_000
PIECE_CHARS = 4096  # at most, of the pieces of `sample_pieces`
MANY_UNKNOWN = 0.1  # of the tokens
N_SHOWN = 20  # tokens in each table of the report

Ids = Sequence[NDArray[np.integer]]


def make_tokenizer(params: TokenizeParams, train: Path, given: Path) -> tokenizers.Tokenizer:
    """Load the pretrained tokenizer under `given`, or train one on the table `train`."""
    if path := path_under(given, params.pretrained, "tokenize.pretrained"):
        return read_pretrained(path, params.pattern)
    texts = _training_texts(train, params.train_bytes)
    match params.kind:
        case "bpe":
            tokenizer = train_bpe(texts, params.vocab_size, params.pattern)
        case "word":
            tokenizer = train_words(texts, params.vocab_size, params.min_frequency, params.keep_whitespace)
        case "char":
            tokenizer = train_chars(texts, params.vocab_size, params.min_frequency)
    if (size := tokenizer.get_vocab_size()) < params.vocab_size:
        missing = "pairs" if params.kind == "bpe" else f"with a min_frequency of {params.min_frequency}"
        print(
            f"tokenize: {size} tokens, vocab_size is {params.vocab_size}: the training text has no more {missing}",
            file=sys.stderr,
        )
    return tokenizer


def _training_texts(train: Path, max_bytes: int) -> Iterator[str]:
    n_bytes = sum(read_table(train, ["n_bytes"]).column("n_bytes").to_pylist())
    texts: Iterator[str] = (row["text"] for row in iterate_rows(train, ["text"]))
    if n_bytes > max_bytes:
        limits = f"{max_bytes:,} of {n_bytes:,} bytes of train (tokenize.train_bytes)"
        print(f"tokenize: training on {limits}", file=sys.stderr)
        texts = sample_pieces(texts, n_bytes, max_bytes)
    with tqdm(total=min(n_bytes, max_bytes), desc="train tokenizer", unit="B", unit_scale=True) as bar:
        for text in texts:
            bar.update(len(text.encode()))
            yield text


def sample_pieces(texts: Iterable[str], n_bytes: int, max_bytes: int) -> Iterator[str]:
    """Yield evenly spaced pieces of texts with `n_bytes` in all, of at most `max_bytes`; words stay whole."""
    length = max(min(PIECE_CHARS, max_bytes // 64), 1)  # a character has up to four bytes: 16 pieces fit or more
    pattern = re.compile(rf"(?s).{{1,{length}}}(?!\S)|.{{1,{length}}}")
    seen = taken = 0
    for text in texts:
        for match in pattern.finditer(text):
            size = len(match[0].encode())
            seen += size
            if taken * n_bytes < seen * max_bytes and taken + size <= max_bytes:
                taken += size
                yield match[0]


def encode_corpus(
    params: TokenizeParams, tokenizer: Tokenizer, seed: int, corpus: Path, tokens: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the ids of every split, and of train with dropout, as Parquet; return metrics and details."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)  # of each token, in all splits

    def encode(texts: list[str], _: list[str]) -> Ids:
        encoded = tokenizer.encode_batch(texts, n_threads=os.cpu_count() or 1)
        np.add(counts, np.bincount(np.concatenate(encoded), minlength=len(counts)), out=counts)
        return encoded

    for split in SPLITS:
        _write_ids(corpus / f"{split}.parquet", tokens / f"{split}.parquet", tokenizer, encode)
    for number in range(1, params.segmentations + 1) if params.dropout else ():

        def encode_with_dropout(texts: list[str], doc_ids: list[str], number: int = number) -> Ids:
            # Random numbers depend on the document, wherever it is in the corpus.
            generators = [random.Random(f"{seed} {number} {doc_id}") for doc_id in doc_ids]
            pairs = zip(texts, generators, strict=True)
            return [np.array(tokenizer.encode_with_dropout(text, params.dropout, rng)) for text, rng in pairs]

        _write_ids(corpus / "train.parquet", tokens / f"train-{number}.parquet", tokenizer, encode_with_dropout)
    metrics = _metrics(tokenizer, counts, tokens)
    if metrics["unknown_fraction"] > MANY_UNKNOWN:
        hint = "raise vocab_size or train_bytes, lower min_frequency, or use kind: bpe"
        print(f"tokenize: {metrics['unknown_fraction']:.0%} of the tokens are {UNKNOWN}: {hint}", file=sys.stderr)
    return metrics, _details(tokenizer, counts)


def _write_ids(corpus: Path, tokens: Path, tokenizer: Tokenizer, encode: Callable[[list[str], list[str]], Ids]) -> None:
    with TableWriter(tokens, tokens_schema(tokenizer.vocab_size)) as table:
        for batch in _batches(corpus, f"tokenize {tokens.stem}"):
            encoded = encode(batch.column("text").to_pylist(), batch.column("doc_id").to_pylist())
            table.append(_with_ids(batch, encoded, table.schema))


def _batches(path: Path, label: str) -> Iterator[pa.Table]:
    """Yield the documents of a split in tables of about BATCH_BYTES of text."""
    total = sum(read_table(path, ["n_bytes"]).column("n_bytes").to_pylist())
    gathered: list[pa.RecordBatch] = []
    size = 0
    with tqdm(total=total, desc=label, unit="B", unit_scale=True) as bar:
        for batch in iterate_batches(path, ["doc_id", "source", "path", "text", "n_bytes"]):
            gathered.append(batch)
            size += sum(batch.column("n_bytes").to_pylist())
            if size >= BATCH_BYTES:
                yield pa.Table.from_batches(gathered)
                bar.update(size)
                gathered, size = [], 0
        if gathered:
            yield pa.Table.from_batches(gathered)
            bar.update(size)


def _with_ids(batch: pa.Table, encoded: Ids, schema: pa.Schema) -> pa.Table:
    """Replace the texts of documents by their ids, which never become Python numbers."""
    n_tokens = np.array([len(ids) for ids in encoded], dtype=np.int64)
    offsets, kind = np.concatenate([[0], np.cumsum(n_tokens)]), schema.field("ids").type
    flat = np.concatenate(encoded).astype(kind.value_type.to_pandas_dtype())
    ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat), type=kind)
    documents = batch.append_column("ids", ids).append_column("n_tokens", pa.array(n_tokens))
    return documents.select(schema.names).cast(schema)


def token_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the number of bytes of each token of the vocabulary; special tokens have 0."""
    special = set(tokenizer.special.values())
    sizes = [0 if id_ in special else len(tokenizer.token_bytes(id_)) for id_ in range(tokenizer.vocab_size)]
    return np.array(sizes, dtype=np.int64)


def _metrics(tokenizer: Tokenizer, counts: NDArray[np.int64], tokens: Path) -> dict[str, Any]:
    columns = ["source", "n_tokens", "n_bytes"]
    frames = {split: read_table(tokens / f"{split}.parquet", columns).to_pandas() for split in SPLITS}
    documents = pd.concat([frame.assign(split=split) for split, frame in frames.items()])
    by_split, by_source = (documents.groupby(key, sort=False)[columns[1:]].sum() for key in ("split", "source"))

    def bytes_per_token(sums: pd.DataFrame) -> dict[str, float]:
        ratios = sums["n_bytes"] / sums["n_tokens"].clip(lower=1)
        return {str(key): round(float(ratio), 4) for key, ratio in ratios.items()}

    unknown = tokenizer.unk_id
    return {
        "vocab_size": tokenizer.vocab_size,
        "vocab_used": int((counts > 0).sum()),
        "lossless": tokenizer.lossless,
        "unknown_fraction": round(int(counts[unknown]) / max(int(counts.sum()), 1), 6) if unknown else 0.0,
        "tokens": by_split["n_tokens"].to_dict(),
        "bytes_per_token": bytes_per_token(by_split),
        "bytes_per_token_by_source": bytes_per_token(by_source),
    }


def _details(tokenizer: Tokenizer, counts: NDArray[np.int64]) -> dict[str, Any]:
    """Return counts and lengths of all tokens, and the longest and the most frequent ones."""
    lengths = token_lengths(tokenizer)

    def top(values: NDArray[np.int64]) -> list[dict[str, Any]]:
        ids = np.lexsort((np.arange(len(values)), -values))[:N_SHOWN].tolist()  # ties in the order of ids
        texts = [tokenizer.token_bytes(id_).decode("utf-8", errors="replace") for id_ in ids]
        return [
            {"id": id_, "token": text, "bytes": int(lengths[id_]), "count": int(counts[id_])}
            for id_, text in zip(ids, texts, strict=True)
        ]

    tables = {"longest": top(lengths), "most_frequent": top(counts)}
    return {**tables, "counts": counts.tolist(), "lengths": lengths.tolist()}
