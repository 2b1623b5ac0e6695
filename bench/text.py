"""Time how text becomes documents, tokens and windows: each stage with its peak memory, beside the bare libraries.

    python -m bench.text [GIGABYTES]          0.1 by default

A JSONL of distinct documents is drawn: words of the standard library by Zipf's law, about 2 kB each, each with its
number. Every stage runs in a process of its own; each cleaning rule is turned on by itself.
"""

import json
import os
import re
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tqdm import tqdm

from bench.shakespeare import run_stages, set_up
from llm.core import params
from llm.core.tables import read_table
from llm.tokens.tokenizer import Tokenizer

WORDS_PER_DOCUMENT, N_DRAWN = 320, 2000
NO_RULES: dict[str, Any] = {"control_characters": "keep", "min_chars": None, "max_chars": None, "repetition": None}
NO_RULES |= {"exact_duplicates": "drop", "near_duplicates": None}
NEAR = {"action": "drop", "threshold": 0.8, "ngram": 5, "permutations": 128, "bands": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "prepare, near duplicates too": {"near_duplicates": NEAR},
    "prepare, control characters too": {"control_characters": "remove"},
    "prepare, repetition (Gopher) too": {"repetition": {}},
    "prepare, exact duplicates": {},  # the last: its documents become tokens
}


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 0.1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data/raw").mkdir(parents=True)
        n_documents, n_bytes = write_documents(folder / "data/raw/documents.jsonl", int(gigabytes * 1e9))
        print(f"{n_documents:,} documents, {n_bytes / 1e6:,.0f} MB of text, {os.cpu_count()} cores")
        content = params.read(Path("params.yaml"))
        content["prepare"]["sources"] = [{"name": "drawn", "kind": "files", "globs": ["data/raw/*.jsonl"]}]
        peaks = {}
        for variant, rules in VARIANTS.items():
            content["prepare"]["clean"] = NO_RULES | rules
            set_up(folder, content)
            peaks[variant] = run(folder, "prepare", variant, n_bytes)
        first, *_, last = peaks.values()
        print(f"near duplicates: {(first - last) * 1e6 / n_documents:,.0f} bytes of memory per document")
        run(folder, "tokenize", "tokenize", n_bytes)
        run(folder, "sample", "sample", n_bytes)
        arrived = sum(
            json.loads((folder / "data/windows/windows.json").read_text(encoding="utf-8"))["n_bytes"].values()
        )
        print(f"{arrived / n_bytes:.2%} of the bytes are in the tokens")
        measure_libraries(folder)


def write_documents(path: Path, n_bytes: int) -> tuple[int, int]:
    """Write distinct documents; return how many, and their bytes of text."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found = {word for file in files for word in re.findall(r"\w+[.,:;]?|[^\w\s]+", file.read_text(encoding="utf-8"))}
    words = np.array(sorted(found), dtype=object)
    rng = np.random.default_rng(1)
    rng.shuffle(words)
    cumulative = np.cumsum(1 / np.arange(1, len(words) + 1))
    written = number = 0
    with path.open("w", encoding="utf-8") as file, tqdm(total=n_bytes, unit="B", unit_scale=True) as bar:
        while written < n_bytes:
            shape = (N_DRAWN, WORDS_PER_DOCUMENT)
            for row in words[np.searchsorted(cumulative, rng.random(shape) * cumulative[-1])]:
                text = f"Document {number}\n{' '.join(row)}\n"
                size = len(text.encode())
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written, number = written + size, number + 1
                bar.update(size)
    return number, written


def run(folder: Path, stage: str, label: str, n_bytes: int) -> float:
    """Run a stage and print its time; return its peak memory in MB."""
    run_stages(folder, [stage])
    found = json.loads((folder / f"metrics/runtime/{stage}.json").read_text(encoding="utf-8"))
    seconds, peak = float(found["seconds"]), float(found["peak_memory_mb"])
    print(f"  {label:<44}{seconds:8.1f} s {n_bytes / seconds / 1e6:8.1f} MB/s {peak:8,.0f} MB peak", flush=True)
    return peak


def measure_libraries(folder: Path) -> None:
    """Print how fast tiktoken and tokenizers encode the same texts, in memory."""
    path, threads = folder / "data/tokenizer/tokenizer.json", os.cpu_count() or 1
    texts: list[str] = read_table(folder / "data/corpus/train.parquet", ["text"]).column("text").to_pylist()
    n_bytes = sum(len(text.encode()) for text in texts)
    ours: Any = Tokenizer.load(path)
    library = tokenizers.Tokenizer.from_file(str(path))
    encoders = {
        "tiktoken encode_ordinary_batch": lambda: ours._encoding.encode_ordinary_batch(texts, num_threads=threads),
        "tokenizers encode_batch_fast": lambda: library.encode_batch_fast(texts),
        "ours encode_batch": lambda: list(ours.encode_batch(texts, threads)),
    }
    for name, encode in encoders.items():
        began = time.perf_counter()
        encode()
        seconds = time.perf_counter() - began
        print(f"  {name:<44}{seconds:8.1f} s {n_bytes / seconds / 1e6:8.1f} MB/s")


if __name__ == "__main__":
    main()
