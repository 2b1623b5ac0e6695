"""How fast text becomes documents and documents become tokens, beside the bare libraries, in one run.

    python -m bench.text

Prepare reads a JSONL of distinct documents that is made for the purpose; each rule is turned on by itself.
Tokenizing takes the built-in corpus. Ratios are medians of runs that take turns.
"""

import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from llm.core.tables import TableWriter, read_table, tokens_schema
from llm.corpus.params import PrepareParams
from llm.tokens.bpe import train_bpe
from llm.tokens.tokenizer import Tokenizer
from stages import prepare
from stages.tokenize import _batches, _with_ids

N_RUNS, JSONL_BYTES, VOCAB_SIZE = 3, 100_000_000, 4096
RULES: dict[str, Any] = {
    "control_characters": "keep",
    "min_chars": None,
    "max_chars": None,
    "repetition": None,
    "exact_duplicates": "drop",
    "near_duplicates": None,
}
NEAR = {"action": "drop", "threshold": 0.8, "ngram": 5, "permutations": 128, "bands": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "read, normalise, exact duplicates, write": {},
    "and control characters": {"control_characters": "remove"},
    "and near duplicates": {"near_duplicates": NEAR},
    "and repetition (Gopher)": {"repetition": {}},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure_prepare(Path(folder))
        measure_tokenize(Path(folder))


def measure_prepare(folder: Path) -> None:
    raw = folder / "raw"
    raw.mkdir()
    texts = builtin_texts(folder)
    n_bytes = write_jsonl(raw / "documents.jsonl", texts)
    runs = {name: (lambda rules=rules: run_prepare(folder, raw, rules)) for name, rules in VARIANTS.items()}
    print(f"\nprepare, {n_bytes / 1e6:.0f} MB of text in a JSONL of documents of 4 kB, median of {N_RUNS}")
    report(take_turns(runs), n_bytes)


def measure_tokenize(folder: Path) -> None:
    corpus = folder / "corpus" / "train.parquet"
    builtin_texts(folder)
    texts: list[str] = read_table(corpus, ["text"]).column("text").to_pylist()
    n_bytes = sum(len(text.encode()) for text in texts)
    path = folder / "tokenizer.json"
    train_bpe(texts, VOCAB_SIZE, "qwen2").save(str(path))
    ours, library = Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))
    threads = os.cpu_count() or 1
    bare = ours._encoding  # tiktoken itself

    def encode_and_write() -> None:
        schema = tokens_schema(VOCAB_SIZE)
        with TableWriter(folder / "tokens.parquet", schema) as table:
            for batch in _batches(corpus, "encode"):
                encoded = ours.encode_batch(batch.column("text").to_pylist(), threads)
                table.append(_with_ids(batch, encoded, schema))

    runs: dict[str, Callable[[], Any]] = {
        "tiktoken encode_ordinary_batch, in memory": lambda: bare.encode_ordinary_batch(texts, num_threads=threads),
        "tokenizers encode_batch_fast, in memory": lambda: library.encode_batch_fast(texts),
        "ours: read Parquet, encode, write Parquet": encode_and_write,
        "ours: train the tokenizer": lambda: train_bpe(texts, VOCAB_SIZE, "qwen2"),
    }
    print(f"\ntokenize, built-in corpus of {n_bytes / 1e6:.1f} MB, vocabulary {VOCAB_SIZE}, {threads} threads")
    report(take_turns(runs), n_bytes)


def builtin_texts(folder: Path) -> list[str]:
    """The documents of the built-in corpus, prepared once into `folder`."""
    path = folder / "corpus" / "train.parquet"
    if not path.exists():
        source = {"name": "python", "kind": "python", "include": ["*"]}
        run_stage(folder, folder, section([source], RULES), "corpus")
    texts: list[str] = read_table(path, ["text"]).column("text").to_pylist()
    return texts


def write_jsonl(path: Path, texts: list[str]) -> int:
    """Pieces of the texts, each with a number of its own, so that no two are alike; returns the bytes of text."""
    n_bytes = number = 0
    with path.open("w", encoding="utf-8") as file:
        while n_bytes < JSONL_BYTES:
            for text in texts:
                for at in range(0, len(text), 4000):
                    piece = f"{number}\n{text[at : at + 4000]}"
                    file.write(json.dumps({"text": piece}, ensure_ascii=False) + "\n")
                    n_bytes += len(piece.encode())
                    number += 1
    return n_bytes


def run_prepare(folder: Path, raw: Path, rules: dict[str, Any]) -> None:
    source = {"name": "made", "kind": "files", "globs": [f"{raw.as_posix()}/*.jsonl"]}
    run_stage(folder, raw, section([source], RULES | rules), "out")


def section(sources: list[dict[str, Any]], rules: dict[str, Any]) -> PrepareParams:
    rest = {"engine": "local", "subset_fraction": 1.0, "max_document_bytes": 100_000_000}
    split = {"method": "document", "val": 0.0, "test": 0.0}
    return PrepareParams(sources=sources, clean=rules, split=split, **rest)


def run_stage(folder: Path, raw: Path, params: PrepareParams, name: str) -> None:
    out, scratch = folder / name, folder / "scratch"
    scratch.mkdir(exist_ok=True)
    prepare.main(params, raw, out, out.with_suffix(".json"), out.with_suffix(".md"), scratch)


def take_turns(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The median seconds of each, one after the other, N_RUNS times over."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(N_RUNS):
        for name, run in runs.items():
            began = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                run()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(of_name) for name, of_name in seconds.items()}


def report(seconds: dict[str, float], n_bytes: int) -> None:
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"  {name:<50}{value:7.2f} s {n_bytes / value / 1e6:7.1f} MB/s {value / first:6.2f} × the first")


if __name__ == "__main__":
    main()
