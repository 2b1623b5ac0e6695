"""The token stream of a split, and the windows over it: each target is the input moved by one."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.errors import UserError
from llm.text.windows import (
    WindowsInfo,
    read_info,
    read_starts,
    read_stream,
    window_starts,
    write_info,
    write_stream,
    write_windows,
)

END = 0
DOCUMENTS = st.lists(st.lists(st.integers(1, 65535), max_size=12), min_size=1, max_size=8)
N_TOKENS, CONTEXT, STRIDE = st.integers(0, 200), st.integers(1, 40), st.integers(1, 50)
INFO = WindowsInfo(vocab_size=300, end_of_text=END, context_length=8, stride=4, n_bytes={"train": 5, "val": 0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


def write(folder: Path, documents: list[list[int]], dtype: str = "<u2") -> np.ndarray:
    n_tokens = sum(len(ids) + 1 for ids in documents) + 1 if documents else 0
    assert write_stream(folder / "train.npy", documents, END, n_tokens, dtype) == n_tokens
    return read_stream(folder, "train")


def targets(start: int, context: int) -> range:
    """The places in the stream that a window predicts: those of its inputs, moved by one."""
    return range(start + 1, start + 1 + context)


@given(documents=DOCUMENTS)
def test_the_stream_is_every_document_in_order_with_an_end_before_and_after_each(
    folder: Path, documents: list[list[int]]
) -> None:
    expected = [END]
    for ids in documents:
        expected += [*ids, END]
    assert write(folder, documents).tolist() == expected


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_the_stream_keeps_its_width_and_is_mapped_not_read(dtype: str, tmp_path: Path) -> None:
    stream = write(tmp_path, [[1, 2], [3]], dtype)
    assert stream.dtype == np.dtype(dtype)
    assert isinstance(stream, np.memmap)


def test_no_documents_make_an_empty_stream_without_windows(tmp_path: Path) -> None:
    stream = write(tmp_path, [])
    assert stream.tolist() == []
    write_windows(tmp_path / "train.parquet", window_starts(len(stream), context_length=4, stride=2))
    assert read_starts(tmp_path, "train").tolist() == []


def test_a_wrong_announcement_of_the_length_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="4 tokens written, 9 announced"):
        write_stream(tmp_path / "train.npy", [[1, 2]], END, 9, "<u2")


@given(N_TOKENS, CONTEXT, STRIDE)
def test_every_window_has_a_target_for_each_input_and_no_window_more_would(
    n_tokens: int, context: int, stride: int
) -> None:
    stream = np.arange(n_tokens)
    starts = window_starts(n_tokens, context, stride).tolist()
    assert starts == [stride * n for n in range(len(starts))]
    for start in starts:
        inputs, target = stream[start : start + context], stream[start + 1 : start + 1 + context]
        assert len(inputs) == len(target) == context
        assert target.tolist() == [*inputs[1:].tolist(), inputs[-1] + 1]
    assert len(starts) * stride + context >= n_tokens


@given(N_TOKENS, CONTEXT)
def test_with_a_stride_of_one_context_each_token_is_a_target_once(n_tokens: int, context: int) -> None:
    starts = window_starts(n_tokens, context, stride=context).tolist()
    predicted = [place for start in starts for place in targets(start, context)]
    assert predicted == list(range(1, len(predicted) + 1))
    assert max(n_tokens - 1, 0) - len(predicted) < context


@given(N_TOKENS, CONTEXT)
def test_with_a_stride_of_one_each_token_far_from_the_ends_is_a_target_of_every_place(
    n_tokens: int, context: int
) -> None:
    starts = window_starts(n_tokens, context, stride=1).tolist()
    times = Counter(place for start in starts for place in targets(start, context))
    inner = range(context, n_tokens - context + 1)
    assert {place: times[place] for place in inner} == dict.fromkeys(inner, context)
    assert starts == [] or set(times) == set(range(1, n_tokens))


@given(N_TOKENS, CONTEXT, STRIDE)
def test_a_stride_beyond_the_context_leaves_gaps_and_a_smaller_one_none(
    n_tokens: int, context: int, stride: int
) -> None:
    starts = window_starts(n_tokens, context, stride).tolist()
    predicted = {place for start in starts for place in targets(start, context)}
    missed = set(range(1, max(predicted, default=0))) - predicted
    assert len(missed) == max(stride - context, 0) * max(len(starts) - 1, 0)


def test_starts_come_back_as_they_were_written(tmp_path: Path) -> None:
    starts = window_starts(100, context_length=7, stride=3)
    write_windows(tmp_path / "val.parquet", starts)
    assert read_starts(tmp_path, "val").tolist() == starts.tolist()


def test_what_a_reader_needs_to_know_comes_back(tmp_path: Path) -> None:
    write_info(tmp_path / "windows.json", INFO)
    assert read_info(tmp_path) == INFO


@pytest.mark.parametrize("content", [None, "{", '{"vocab_size": 3}', json.dumps(vars(INFO) | {"more": 1}), "[]"])
def test_a_folder_of_something_else_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "windows.json").write_text(content)
    with pytest.raises(UserError, match="wanted a folder of windows"):
        read_info(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"no stream" * 100])
def test_a_file_that_is_no_stream_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "val.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"val\.npy: wanted a token stream"):
        read_stream(tmp_path, "val")
