"""A split's token stream, and the sliding windows over it that the model learns from.

    documents   [5 6 7] [8 9]
    stream      0 5 6 7 0 8 9 0            0 is <|endoftext|>: before the first document and after each
    windows     input 0 5 6 → target 5 6 7,  input 7 0 8 → target 0 8 9      context length 3, stride 3

A window is a start in the stream and nothing more: tokens are never copied, whatever the stride. With a stride
equal to the context length each token is a target once; with a smaller one windows overlap.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm.errors import UserError
from llm.text.tables import TableWriter, read_table

WINDOWS = pa.schema([("start", pa.int64())])


@dataclass(frozen=True)
class WindowsInfo:
    """What a reader of windows needs to know of them (windows.json)."""

    vocab_size: int
    end_of_text: int
    context_length: int
    stride: int
    n_bytes: dict[str, int]


def write_stream(path: Path, documents: Iterable[list[int]], end_of_text: int, n_tokens: int, dtype: str) -> int:
    """Join documents into one memory-mappable .npy of `n_tokens` tokens; returns how many were written.

    `n_tokens` is the sum of the documents' lengths, one for each document, and one more. No document: no token.
    """
    stream = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(n_tokens,)) if n_tokens else None
    if stream is None:
        np.save(path, np.zeros(0, dtype=dtype))
        return 0
    stream[0] = end_of_text
    place = 1
    for ids in documents:
        stream[place : place + len(ids)] = ids
        stream[place + len(ids)] = end_of_text
        place += len(ids) + 1
    assert place == n_tokens, f"{place} tokens written, {n_tokens} announced"
    stream.flush()
    return n_tokens


def window_starts(n_tokens: int, context_length: int, stride: int) -> NDArray[np.int64]:
    """Where each window begins that has `context_length` inputs and a target for the last of them.

    >>> window_starts(8, context_length=3, stride=3)
    array([0, 3])
    >>> window_starts(8, context_length=3, stride=1)
    array([0, 1, 2, 3, 4])
    """
    return np.arange(0, max(n_tokens - context_length, 0), stride, dtype=np.int64)


def write_windows(path: Path, starts: NDArray[np.int64]) -> None:
    """The window table: one row a window."""
    with TableWriter(path, WINDOWS) as table:
        for start in starts.tolist():
            table.write({"start": start}, n_bytes=8)


def write_info(path: Path, info: WindowsInfo) -> None:
    """Keep what a reader needs to know beside the streams."""
    path.write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")


def read_info(folder: Path) -> WindowsInfo:
    """What `write_info` kept; UserError where the folder holds no windows."""
    try:
        return WindowsInfo(**json.loads((folder / "windows.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        raise UserError(f"{folder}: wanted a folder of windows, its windows.json is missing or no such file") from None


def read_stream(folder: Path, split: str) -> NDArray[np.uint32]:
    """A split's tokens, memory-mapped (an empty split is read whole: nothing can be mapped there)."""
    path = folder / f"{split}.npy"
    try:
        # A file of no tokens is 128 bytes of header: mmap refuses to map the nothing behind it.
        return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
    except (FileNotFoundError, ValueError, EOFError):
        raise UserError(f"{path}: wanted a token stream, it is missing or no .npy file") from None


def read_starts(folder: Path, split: str) -> NDArray[np.int64]:
    """Where the windows of a split begin."""
    starts: NDArray[np.int64] = read_table(folder / f"{split}.parquet").column("start").to_numpy()
    return starts
