"""Documents → a tokenizer trained on the train split alone, and the token ids of every split."""

import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core import stage
from llm.core.errors import UserError
from llm.core.outputs import write_json
from llm.core.stage import Input, Output, Param, Seed
from llm.core.tables import SPLITS, TableWriter, iterate_batches, iterate_rows, read_table, tokens_schema
from llm.report.plots import draw_vocabulary
from llm.tokens.bpe import train_bpe
from llm.tokens.params import TokenizeParams
from llm.tokens.pretrained import read_pretrained
from llm.tokens.special import UNKNOWN
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.training_text import sample_pieces
from llm.tokens.usage import Usage
from llm.tokens.words import train_chars, train_words

BATCH_BYTES = 8_000_000
MANY_UNKNOWN = 0.1  # of the tokens
COLUMNS = ["doc_id", "source", "path", "text", "n_bytes"]


def main(
    tokenize: Annotated[TokenizeParams, Param("tokenize")],
    seed: Seed,
    corpus: Input = Path("data/corpus"),
    given: Input = Path("data/given"),
    tokenizer: Output = Path("data/tokenizer/tokenizer.json"),
    tokens: Output = Path("data/tokens"),
    metrics: Output = Path("metrics/tokenize.json"),
    report: Output = Path("reports/tokenize.md"),
    picture: Output = Path("plots/tokenize/vocabulary.svg"),
) -> None:
    """Write `tokenizer` (a tokenizer.json), `tokens`/{train,val,test}.parquet, and how the one serves the other."""
    _make_tokenizer(tokenize, corpus / "train.parquet", given).save(str(tokenizer))
    encoder = Tokenizer.load(tokenizer)
    if tokenize.pretrained is None and encoder.vocab_size < tokenize.vocab_size:
        print(
            f"tokenize: {encoder.vocab_size} tokens of a vocab_size of {tokenize.vocab_size}: the training text has "
            f"no more {'pairs' if tokenize.kind == 'bpe' else f'of a min_frequency of {tokenize.min_frequency}'}",
            file=sys.stderr,
        )
    usage = Usage(encoder)
    for split in SPLITS:
        with TableWriter(tokens / f"{split}.parquet", tokens_schema(encoder.vocab_size)) as table:
            for batch in _batches(corpus / f"{split}.parquet", f"encode {split}"):
                encoded = encoder.encode_batch(batch.column("text").to_pylist(), n_threads=os.cpu_count() or 1)
                table.append(_with_ids(batch, encoded, table.schema))
                usage.add(split, batch.column("source").to_pylist(), batch.column("n_bytes").to_pylist(), encoded)
    for number in range(1, tokenize.segmentations + 1) if tokenize.dropout else ():
        with TableWriter(tokens / f"train-{number}.parquet", tokens_schema(encoder.vocab_size)) as table:
            for batch in _batches(corpus / "train.parquet", f"segmentation {number}"):
                table.append(_with_ids(batch, _drop_merges(encoder, batch, tokenize, seed, number), table.schema))
    figures = usage.figures()
    if figures["unknown_share"] > MANY_UNKNOWN:
        advice = "raise vocab_size or train_bytes, lower min_frequency, or use kind: bpe"
        print(f"tokenize: {figures['unknown_share']:.0%} of the tokens are {UNKNOWN}: {advice}", file=sys.stderr)
    write_json(metrics, figures)
    report.write_text(usage.report(), encoding="utf-8")
    picture.write_text(draw_vocabulary(usage.counts.tolist(), usage.lengths().tolist()), encoding="utf-8")


def _make_tokenizer(tokenize: TokenizeParams, train: Path, given: Path) -> tokenizers.Tokenizer:
    """The tokenizer that params ask for: brought along, or learnt from the training text."""
    if tokenize.pretrained is not None:
        path = Path(tokenize.pretrained)
        if ".." in path.parts or not path.is_relative_to(given):
            raise UserError(f"tokenize.pretrained: wanted a path under {given}, given {tokenize.pretrained}")
        return read_pretrained(path, tokenize.pattern)
    texts = _training_texts(train, tokenize.train_bytes)
    match tokenize.kind:
        case "bpe":
            return train_bpe(texts, tokenize.vocab_size, tokenize.pattern)
        case "word":
            return train_words(texts, tokenize.vocab_size, tokenize.min_frequency, tokenize.keep_whitespace)
        case "char":
            return train_chars(texts, tokenize.vocab_size, tokenize.min_frequency)


def _training_texts(train: Path, max_bytes: int) -> Iterator[str]:
    """The training text, or pieces of its documents of at most so many bytes."""
    n_bytes = sum(read_table(train, ["n_bytes"]).column("n_bytes").to_pylist())
    texts: Iterator[str] = (row["text"] for row in iterate_rows(train, ["text"]))
    if n_bytes > max_bytes:
        print(
            f"tokenize: learning from {max_bytes:,} of {n_bytes:,} bytes of train (tokenize.train_bytes)",
            file=sys.stderr,
        )
        texts = sample_pieces(texts, n_bytes, max_bytes)
    with tqdm(total=min(n_bytes, max_bytes), desc="train tokenizer", unit="B", unit_scale=True) as bar:
        for text in texts:
            bar.update(len(text.encode()))
            yield text


def _batches(path: Path, label: str) -> Iterator[pa.Table]:
    """The documents of a split, in tables of about BATCH_BYTES of text, under a progress bar."""
    total = sum(read_table(path, ["n_bytes"]).column("n_bytes").to_pylist())
    gathered: list[pa.RecordBatch] = []
    size = 0
    with tqdm(total=total, desc=label, unit="B", unit_scale=True) as bar:
        for batch in iterate_batches(path, COLUMNS):
            gathered.append(batch)
            size += sum(batch.column("n_bytes").to_pylist())
            if size >= BATCH_BYTES:
                yield pa.Table.from_batches(gathered)
                bar.update(size)
                gathered, size = [], 0
        if gathered:
            yield pa.Table.from_batches(gathered)
            bar.update(size)


def _with_ids(batch: pa.Table, encoded: Sequence[NDArray[np.integer]], schema: pa.Schema) -> pa.Table:
    """Documents with their ids in place of their texts; the ids never become Python numbers."""
    n_tokens = np.array([len(ids) for ids in encoded], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(n_tokens)])
    width = schema.field("ids").type.value_type
    flat = np.concatenate(encoded).astype(width.to_pandas_dtype())
    columns = {name: batch.column(name) for name in ("doc_id", "source", "path", "n_bytes")}
    columns["ids"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat), type=schema.field("ids").type)
    columns["n_tokens"] = pa.array(n_tokens)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _drop_merges(
    encoder: Tokenizer, batch: pa.Table, tokenize: TokenizeParams, seed: int, number: int
) -> Sequence[NDArray[np.integer]]:
    """Documents with merges dropped, drawn for each document anew: where it stands decides nothing."""
    return [
        np.array(encoder.encode_with_dropout(text, tokenize.dropout, random.Random(f"{seed} {number} {doc_id}")))
        for doc_id, text in zip(batch.column("doc_id").to_pylist(), batch.column("text").to_pylist(), strict=True)
    ]


if __name__ == "__main__":
    stage.run(main)
