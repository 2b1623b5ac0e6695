"""A split's token stream, and the sliding windows over it that the model learns from.

    documents   [5 6 7] [8 9]
    stream      0 5 6 7 0 8 9 0            0 is <|endoftext|>: before the first document and after each
    windows     input 0 5 6 → target 5 6 7,  input 7 0 8 → target 0 8 9      context length 3, stride 3

A window is a start in the stream, and how many of its targets count: tokens are never copied, whatever the
stride. With a stride equal to the context length each token is a target once; with a smaller one windows overlap.
Which question this answers: why stride? It sets how often an epoch sees each token.

    boundary document     input 0 5 6 → target 5 6 7,  input 7 P P → target 0 - -,  input 0 8 9 → target 8 9 0
                          P is <|pad|>, and - a target that does not count
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm.core.errors import UserError
from llm.core.tables import TableWriter, read_table
from llm.tokens.params import WindowParams

# `weight` says how often an epoch of training sees the window.
WINDOWS = pa.schema([("start", pa.int64()), ("length", pa.int32()), ("weight", pa.float32())])
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class WindowsInfo:
    """What a reader of windows needs to know of them (windows.json)."""

    vocab_size: int
    end_of_text: int
    pad: int
    context_length: int
    stride: int
    boundary: str  # cross or document
    n_bytes: dict[str, int]
    segmentations: list[str]  # of train with dropped merges, beside the clean one
    lossless: bool  # whether the text can be had back from the tokens


class Windows(NamedTuple):
    """The windows over one token stream: where each begins, how many targets count, how often an epoch sees it."""

    stream: NDArray[np.integer]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    weights: NDArray[np.float32]


class StreamWriter:
    """Joins documents into one .npy of `n_tokens` tokens, a batch of documents at a time.

    `n_tokens` is the sum of the documents' lengths, one for each document, and one more; without documents none.
    """

    def __init__(self, path: Path, n_tokens: int, end_of_text: int, dtype: str):
        self.end_of_text, self.dtype, self.n_left = end_of_text, np.dtype(dtype), n_tokens
        self._file = path.open("wb")
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (n_tokens,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        if n_tokens:
            self._write(np.array([end_of_text]))

    def add(self, ids: NDArray[np.integer], lengths: NDArray[np.int64]) -> None:
        """Append documents that lie one behind the other in `ids`, with <|endoftext|> after each."""
        self._write(np.insert(ids, np.cumsum(lengths), self.end_of_text))

    def _write(self, ids: NDArray[np.integer]) -> None:
        self.n_left -= len(ids)
        self._file.write(ids.astype(self.dtype).tobytes())

    def close(self) -> None:
        """End the file; all that was announced has to be there."""
        self._file.close()
        assert not self.n_left, f"{self.n_left} tokens fewer written than announced"


def window_spans(
    document_lengths: NDArray[np.int64], sample: WindowParams
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Starts and lengths of all windows over a stream of documents with so many tokens each, in order.

    A document's part of the stream is the <|endoftext|> before it and its tokens: as many targets as it has
    tokens, and one for the <|endoftext|> after it.

    >>> from llm.tokens.params import WindowParams
    >>> options = {"context_length": 3, "stride": 3, "weights": {}, "contamination_ngram": 13}
    >>> crossing = WindowParams(boundary="cross", align_to_documents=False, **options)
    >>> [values.tolist() for values in window_spans(np.array([3, 2]), crossing)]
    [[0, 3], [3, 3]]
    >>> one_each = WindowParams(boundary="document", align_to_documents=False, **options)
    >>> [values.tolist() for values in window_spans(np.array([3, 2]), one_each)]
    [[0, 3, 4], [3, 1, 3]]
    """
    context, stride = sample.context_length, sample.stride
    n_tokens = int(document_lengths.sum()) + len(document_lengths) + 1 if len(document_lengths) else 0
    if sample.boundary == "cross" and not sample.align_to_documents:
        starts = np.arange(0, max(n_tokens - context, 0), stride, dtype=np.int64)
        return starts, np.full(len(starts), context, dtype=np.int32)
    n_targets = document_lengths + 1
    # The first window, and then as many more as it takes to reach the document's end.
    more = -(-np.maximum(n_targets - context, 0) // stride)
    counts = 1 + np.minimum(more, (n_targets - 1) // stride)
    offsets = np.cumsum(n_targets) - n_targets
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(offsets, counts) + within * stride
    ends = np.repeat(offsets + n_targets, counts) if sample.boundary == "document" else max(n_tokens - 1, 0)
    return starts, np.minimum(context, ends - starts).astype(np.int32)


def target_coverage(windows: Windows) -> dict[str, float]:
    """The shares of targets that the first epoch of training sees not at all, once, and more often.

    >>> stream = np.zeros(8)
    >>> windows = Windows(stream, np.array([0, 2]), np.array([3, 3]), np.ones(2))
    >>> target_coverage(windows)  # targets 1 2 3 and 3 4 5 of 1 to 7
    {'0': 0.28571, '1': 0.57143, '2+': 0.14286}
    """
    times = np.concatenate([[0], np.cumsum(repeats(windows.weights, epoch=0))])
    ends = windows.starts + windows.lengths
    n_targets = max(len(windows.stream) - 1, 0)
    seen = np.zeros(3, dtype=np.int64)
    for at in range(0, n_targets, 1 << 20):
        places = np.arange(at + 1, min(at + (1 << 20), n_targets) + 1)
        # Starts and ends are both in order: a target is in the windows that have begun and are not over.
        count = times[np.searchsorted(windows.starts, places)] - times[np.searchsorted(ends, places)]
        seen += np.bincount(np.minimum(count, 2), minlength=3)
    return dict(zip(("0", "1", "2+"), (round(float(n) / max(n_targets, 1), 5) for n in seen), strict=True))


def repeats(weights: NDArray[np.float32], epoch: int) -> NDArray[np.int64]:
    """How often an epoch (from 0) sees each window: on the average its weight, and evenly over the epochs.

    >>> repeats(np.array([1, 2, 0.5, 0.5], dtype=np.float32), epoch=0).tolist()
    [1, 2, 0, 1]
    >>> repeats(np.array([1, 2, 0.5, 0.5], dtype=np.float32), epoch=1).tolist()
    [1, 2, 1, 0]
    """
    # Each window has its own place in the cycle, so that an epoch sees half of those with the weight 0.5. In
    # steps of 2^-20, which add up without rounding.
    phase = np.floor((np.arange(len(weights)) * GOLDEN % 1) * 2**20) / 2**20
    exact = weights.astype(np.float64)
    return (np.floor(exact * (epoch + 1) + phase) - np.floor(exact * epoch + phase)).astype(np.int64)


def write_windows(
    path: Path, starts: NDArray[np.int64], lengths: NDArray[np.int32], weights: NDArray[np.float32]
) -> None:
    """The window table: one row a window."""
    with TableWriter(path, WINDOWS) as table:
        for at in range(0, len(starts), 1 << 20):
            columns = [values[at : at + (1 << 20)] for values in (starts, lengths, weights)]
            table.append(pa.table(columns, schema=WINDOWS))


def write_info(path: Path, info: WindowsInfo) -> None:
    """Keep what a reader needs to know beside the streams."""
    path.write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")


def read_info(folder: Path) -> WindowsInfo:
    """What `write_info` kept; UserError where the folder holds no windows."""
    try:
        return WindowsInfo(**json.loads((folder / "windows.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        raise UserError(f"{folder}: wanted a folder of windows, its windows.json is missing or no such file") from None


def read_stream(folder: Path, name: str) -> NDArray[np.integer]:
    """The tokens of a split or segmentation, memory-mapped (an empty one is read whole: nothing can be mapped)."""
    path = folder / f"{name}.npy"
    try:
        # A file of no tokens is all header: mmap refuses to map the nothing behind it.
        return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
    except (FileNotFoundError, ValueError, EOFError):
        raise UserError(f"{path}: wanted a token stream, it is missing or no .npy file") from None


class StreamFile:
    """A stream on disk, read a slice at a time: unlike what is mapped, what was read takes no memory afterwards.

    Slices have a start and an end and no step.
    """

    def __init__(self, folder: Path, name: str):
        stream = read_stream(folder, name)
        self.dtype, self._n_tokens = stream.dtype, len(stream)
        self._path = folder / f"{name}.npy"
        self._header_bytes = self._path.stat().st_size - len(stream) * stream.dtype.itemsize

    def __len__(self) -> int:
        return self._n_tokens

    def __getitem__(self, places: slice) -> NDArray[np.integer]:
        start, stop, _ = places.indices(self._n_tokens)
        offset = self._header_bytes + start * self.dtype.itemsize
        return np.fromfile(self._path, dtype=self.dtype, count=max(stop - start, 0), offset=offset)


def read_windows(folder: Path, name: str) -> Windows:
    """The windows of a split or segmentation."""
    table = read_table(folder / f"{name}.parquet")
    starts, lengths, weights = (table.column(column).to_numpy() for column in WINDOWS.names)
    return Windows(read_stream(folder, name), starts, lengths, weights)
