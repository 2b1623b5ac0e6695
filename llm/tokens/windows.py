"""Write and read a split's token stream and the sliding windows over it.

    documents   [5 6 7] [8 9]
    stream      0 5 6 7 0 8 9 0            0 is <|endoftext|>: before the first document and after each
    windows     input 0 5 6 → target 5 6 7,  input 7 0 8 → target 0 8 9      context length 3, stride 3

A window is a start in the stream and a number of targets: tokens are never copied, whatever the stride. With a stride
equal to the context length each token is a target once; with a smaller one windows overlap. Which question this
answers: why stride? It sets how often an epoch sees each token.

    boundary document     input 0 5 6 → target 5 6 7,  input 7 P P → target 0 - -,  input 0 8 9 → target 8 9 0
                          P is <|pad|>, and - a target that is ignored
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm.core.errors import UserError
from llm.core.tables import TableWriter, read_table
from llm.tokens.params import WindowParams
from llm.tokens.tokenizer import Tokenizer

# `weight` is how often an epoch of training sees the window.
WINDOWS = pa.schema([("start", pa.int64()), ("length", pa.int32()), ("weight", pa.float32())])
GOLDEN = (5**0.5 - 1) / 2
ARROW = " ----------> "


@dataclass(frozen=True)
class WindowsInfo:
    """The content of windows.json."""

    vocab_size: int
    end_of_text: int
    pad: int
    context_length: int
    stride: int
    boundary: str  # cross or document
    n_bytes: dict[str, int]  # by split
    segmentations: list[str]  # of train with dropped merges, beside the plain one
    lossless: bool  # whether tokens decode to the text


class Windows(NamedTuple):
    """The windows over one token stream."""

    stream: NDArray[np.integer]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]  # numbers of targets
    weights: NDArray[np.float32]


def write_stream(
    path: Path,
    batches: Iterable[tuple[NDArray[np.integer], NDArray[np.int64]]],
    document_lengths: NDArray[np.int64],
    end_of_text: int,
    vocab_size: int,
) -> None:
    """Write batches of documents, each as concatenated ids and their lengths, as one .npy of 16 or 32 bits."""
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    n_tokens = _n_tokens(document_lengths)
    with path.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (n_tokens,)}
        np.lib.format.write_array_header_1_0(file, header)
        n_bytes = file.write(np.full(min(n_tokens, 1), end_of_text, dtype).tobytes())
        for ids, lengths in batches:
            n_bytes += file.write(np.insert(ids, np.cumsum(lengths), end_of_text).astype(dtype).tobytes())
    assert n_bytes == n_tokens * dtype.itemsize, "as many tokens as the header says"


def _n_tokens(document_lengths: NDArray[np.int64]) -> int:
    return int(document_lengths.sum()) + len(document_lengths) + 1 if len(document_lengths) else 0


def window_spans(
    document_lengths: NDArray[np.int64], params: WindowParams
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return starts and lengths of all windows over a stream of documents, in order.

    A document has as many targets as tokens, and one more for the <|endoftext|> after it.

    >>> from llm.tokens.params import WindowParams
    >>> options = {"context_length": 3, "stride": 3, "align_to_documents": False, "weights": {}}
    >>> params = WindowParams(boundary="document", contamination_ngram=13, **options)
    >>> [values.tolist() for values in window_spans(np.array([3, 2]), params)]
    [[0, 3, 4], [3, 1, 3]]
    """
    context, stride = params.context_length, params.stride_tokens
    n_tokens = _n_tokens(document_lengths)
    if params.boundary == "cross" and not params.align_to_documents:
        starts = np.arange(0, max(n_tokens - context, 0), stride, dtype=np.int64)
        return starts, np.full(len(starts), context, dtype=np.int32)
    n_targets = document_lengths + 1
    # The first window, and as many more as it takes to reach the document's end.
    more = -(-np.maximum(n_targets - context, 0) // stride)
    counts = 1 + np.minimum(more, (n_targets - 1) // stride)
    offsets = np.cumsum(n_targets) - n_targets
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(offsets, counts) + within * stride
    ends = np.repeat(offsets + n_targets, counts) if params.boundary == "document" else max(n_tokens - 1, 0)
    return starts, np.minimum(context, ends - starts).astype(np.int32)


def target_coverage(windows: Windows) -> dict[str, float]:
    """Return the fractions of targets that the first epoch of training sees not at all, once, and more often."""
    times = np.concatenate([[0], np.cumsum(repeats(windows.weights, epoch=0))])
    ends = windows.starts + windows.lengths
    n_targets = max(len(windows.stream) - 1, 0)
    seen = np.zeros(3, dtype=np.int64)
    for at in range(0, n_targets, 1 << 20):
        targets = np.arange(at + 1, min(at + (1 << 20), n_targets) + 1)
        # Starts and ends are sorted: a target is in the windows that have begun and have not ended.
        count = times[np.searchsorted(windows.starts, targets)] - times[np.searchsorted(ends, targets)]
        seen += np.bincount(np.minimum(count, 2), minlength=3)
    return dict(zip(("0", "1", "2+"), (round(float(n) / max(n_targets, 1), 5) for n in seen), strict=True))


def repeats(weights: NDArray[np.float32], epoch: int) -> NDArray[np.int64]:
    """Return how often an epoch (from 0) sees each window: its weight on average, evenly over the epochs.

    >>> [repeats(np.array([1, 2, 0.5, 0.5], dtype=np.float32), epoch).tolist() for epoch in range(2)]
    [[1, 2, 0, 1], [1, 2, 1, 0]]
    """
    # Each window has its own phase, so that an epoch sees half of the windows with weight 0.5; in steps of 2^-20,
    # which add up without rounding.
    phase = np.floor((np.arange(len(weights)) * GOLDEN % 1) * 2**20) / 2**20
    exact = weights.astype(np.float64)
    return (np.floor(exact * (epoch + 1) + phase) - np.floor(exact * epoch + phase)).astype(np.int64)


def write_windows(
    path: Path, starts: NDArray[np.int64], lengths: NDArray[np.int32], weights: NDArray[np.float32]
) -> None:
    """Write the table of windows."""
    with TableWriter(path, WINDOWS) as table:
        for at in range(0, len(starts), 1 << 20):  # in row groups of this size
            columns = [values[at : at + (1 << 20)] for values in (starts, lengths, weights)]
            table.append(pa.table(columns, schema=WINDOWS))


def read_windows(folder: Path, name: str) -> Windows:
    """Read the windows of a split or segmentation."""
    table = read_table(folder / f"{name}.parquet")
    starts, lengths, weights = (table.column(column).to_numpy() for column in WINDOWS.names)
    return Windows(read_stream(folder, name), starts, lengths, weights)


def write_info(path: Path, info: WindowsInfo) -> None:
    """Write windows.json."""
    path.write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")


def read_info(folder: Path) -> WindowsInfo:
    """Read windows.json; UserError where the folder has no valid one."""
    try:
        return WindowsInfo(**json.loads((folder / "windows.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        raise UserError(f"{folder}: expected a folder of windows, its windows.json is missing or not valid") from None


def read_stream(folder: Path, name: str) -> NDArray[np.integer]:
    """Return the tokens of a split or segmentation, memory-mapped unless empty."""
    path = folder / f"{name}.npy"
    try:
        # mmap refuses a file that is all header.
        return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
    except (FileNotFoundError, ValueError, EOFError):
        raise UserError(f"{path}: expected a token stream, it is missing or not a valid .npy file") from None


def window_rows(windows: Windows, number: int, n_rows: int, tokenizer: Tokenizer) -> list[str]:
    """Return the first pairs of input and target of a window as lines: `[290] ----------> 4920`, then as text.

    A window of T tokens holds T such pairs, learned at once. Which question this answers: why sliding windows? They
    make pairs of input and target out of plain text, which nobody has to label.
    """
    start = int(windows.starts[number])
    n_rows = min(n_rows, int(windows.lengths[number]))
    ids = [int(id_) for id_ in windows.stream[start : start + n_rows + 1]]
    as_ids = [f"{ids[:n]}{ARROW}{ids[n]}" for n in range(1, n_rows + 1)]
    as_text = [f"{tokenizer.decode(ids[:n])!r}{ARROW}{tokenizer.decode([ids[n]])!r}" for n in range(1, n_rows + 1)]
    return as_ids + as_text
