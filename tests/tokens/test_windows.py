"""The token stream of a split, and the windows over it: each target is the input moved by one."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.tokens.windows import (
    StreamFile,
    StreamWriter,
    Windows,
    WindowsInfo,
    read_info,
    read_stream,
    read_windows,
    repeats,
    target_coverage,
    window_spans,
    write_info,
    write_windows,
)

END = 0
DOCUMENTS = st.lists(st.lists(st.integers(1, 65535), max_size=12), max_size=8)
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=12)
CONTEXT, STRIDE = st.integers(2, 20), st.integers(1, 25)
INFO = WindowsInfo(
    vocab_size=300,
    end_of_text=END,
    pad=1,
    context_length=8,
    stride=4,
    boundary="cross",
    n_bytes={"train": 5, "val": 0},
    segmentations=["train-1"],
    lossless=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


def write(folder: Path, batches: list[list[list[int]]], dtype: str = "<u2") -> np.ndarray:
    documents = [ids for batch in batches for ids in batch]
    stream = StreamWriter(folder / "train.npy", sum(len(ids) + 1 for ids in documents) + bool(documents), END, dtype)
    for batch in batches:
        flat = np.array([id_ for ids in batch for id_ in ids], dtype=np.uint32)
        stream.add(flat, np.array([len(ids) for ids in batch], dtype=np.int64))
    stream.close()
    return read_stream(folder, "train")


def lay_out(lengths: list[int]) -> list[tuple[int, int]]:
    """The stream that documents make, as (document, place in it); <|endoftext|> is place -1, the last one's too."""
    return [place for n, length in enumerate(lengths) for place in [(n, -1), *((n, at) for at in range(length))]] + [
        (len(lengths), -1)
    ]


@given(batches=st.lists(DOCUMENTS, max_size=4))
def test_the_stream_is_every_document_in_order_with_an_end_before_and_after_each(
    folder: Path, batches: list[list[list[int]]]
) -> None:
    documents = [ids for batch in batches for ids in batch]
    expected = [END] * bool(documents)
    for ids in documents:
        expected += [*ids, END]
    assert write(folder, batches).tolist() == expected


@given(batches=st.lists(DOCUMENTS, max_size=3), start=st.integers(0, 60), stop=st.integers(0, 60))
def test_a_stream_file_gives_the_slices_of_the_stream(
    folder: Path, batches: list[list[list[int]]], start: int, stop: int
) -> None:
    stream = write(folder, batches)
    file = StreamFile(folder, "train")
    assert len(file) == len(stream)
    assert file[start:stop].tolist() == stream[start:stop].tolist()
    assert file[start : start + 5].dtype == stream.dtype


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_the_stream_keeps_its_width_and_is_mapped_not_read(dtype: str, tmp_path: Path) -> None:
    stream = write(tmp_path, [[[1, 2], [3]]], dtype)
    assert stream.dtype == np.dtype(dtype)
    assert isinstance(stream, np.memmap)


def test_a_wrong_announcement_of_the_length_is_noticed(tmp_path: Path) -> None:
    stream = StreamWriter(tmp_path / "train.npy", 9, END, "<u2")
    stream.add(np.array([1, 2]), np.array([2]))
    with pytest.raises(AssertionError, match="5 tokens fewer written than announced"):
        stream.close()


@pytest.mark.parametrize("boundary", ["cross", "document"])
def test_no_documents_make_no_windows(boundary: str, window_params: Callable) -> None:
    starts, lengths = window_spans(np.array([], dtype=np.int64), window_params(boundary=boundary))
    assert starts.tolist() == lengths.tolist() == []


@given(lengths=LENGTHS, context=CONTEXT, stride=STRIDE)
def test_crossing_windows_are_full_and_no_window_more_would_fit(
    lengths: list[int], context: int, stride: int, window_params: Callable
) -> None:
    n_tokens = sum(lengths) + len(lengths) + 1
    starts, counting = window_spans(np.array(lengths), window_params(context_length=context, stride=stride))
    assert starts.tolist() == [stride * n for n in range(len(starts))]
    assert set(counting.tolist()) <= {context}
    assert all(start + context < n_tokens for start in starts)
    assert len(starts) * stride + context >= n_tokens


@given(lengths=LENGTHS, context=CONTEXT)
def test_with_a_stride_of_one_each_token_far_from_the_ends_is_a_target_of_every_place(
    lengths: list[int], context: int, window_params: Callable
) -> None:
    n_tokens = sum(lengths) + len(lengths) + 1
    starts, _ = window_spans(np.array(lengths), window_params(context_length=context, stride=1))
    times = Counter(place for start in starts.tolist() for place in range(start + 1, start + 1 + context))
    inner = range(context, n_tokens - context + 1)
    assert {place: times[place] for place in inner} == dict.fromkeys(inner, context)


@given(lengths=LENGTHS, context=CONTEXT, stride=STRIDE)
def test_a_window_within_documents_never_sees_two_and_loses_no_tail(
    lengths: list[int], context: int, stride: int, window_params: Callable
) -> None:
    layout = lay_out(lengths)
    sample = window_params(context_length=context, stride=stride, boundary="document")
    starts, counting = window_spans(np.array(lengths), sample)
    targets = Counter[int]()
    for start, length in zip(starts.tolist(), counting.tolist(), strict=True):
        assert 1 <= length <= context
        assert len({document for document, _ in layout[start : start + length]}) == 1
        targets.update(range(start + 1, start + 1 + length))
    if stride <= context:
        assert set(targets) == set(range(1, len(layout)))
    if stride == context:
        assert set(targets.values()) == {1}


@given(lengths=LENGTHS, context=CONTEXT, stride=STRIDE)
def test_aligned_windows_begin_with_each_document_and_are_full_up_to_the_end_of_the_stream(
    lengths: list[int], context: int, stride: int, window_params: Callable
) -> None:
    layout = lay_out(lengths)
    sample = window_params(context_length=context, stride=stride, align_to_documents=True)
    starts, counting = window_spans(np.array(lengths), sample)
    assert {at for at, (_, place) in enumerate(layout[:-1]) if place == -1} <= set(starts.tolist())
    assert counting.tolist() == [min(context, len(layout) - 1 - start) for start in starts.tolist()]
    if stride <= context:
        covered = {
            place
            for start, length in zip(starts.tolist(), counting.tolist(), strict=True)
            for place in range(start + 1, start + 1 + length)
        }
        assert covered == set(range(1, len(layout)))


@given(
    lengths=LENGTHS,
    context=CONTEXT,
    stride=STRIDE,
    boundary=st.sampled_from(["cross", "document"]),
    align=st.booleans(),
    weight=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_the_shares_seen_are_those_of_a_count_one_by_one(
    lengths: list[int],
    context: int,
    stride: int,
    boundary: str,
    align: bool,
    weight: float,
    window_params: Callable,
) -> None:
    n_targets = len(lay_out(lengths)) - 1
    sample = window_params(context_length=context, stride=stride, boundary=boundary, align_to_documents=align)
    starts, counting = window_spans(np.array(lengths), sample)
    windows = Windows(np.zeros(n_targets + 1), starts, counting, np.full(len(starts), weight, dtype=np.float32))
    times = Counter[int]()
    for start, length, n in zip(starts, counting, repeats(windows.weights, 0), strict=True):
        times.update({int(start) + 1 + place: int(n) for place in range(length)})
    seen = [times[place] for place in range(1, n_targets + 1)]
    expected = [seen.count(0), seen.count(1), sum(count > 1 for count in seen)]
    assert list(target_coverage(windows).values()) == pytest.approx([n / n_targets for n in expected], abs=1e-5)


@given(weight=st.floats(0, 5, width=32), n=st.integers(1, 50))
def test_over_many_epochs_a_window_is_seen_as_often_as_its_weight_says(weight: float, n: int) -> None:
    weights = np.full(n, weight, dtype=np.float32)
    times = np.sum([repeats(weights, epoch) for epoch in range(200)], axis=0)
    assert times == pytest.approx(200 * weight, abs=1)


def test_a_weight_of_a_half_takes_other_windows_each_epoch() -> None:
    epochs = [repeats(np.full(1000, 0.5, dtype=np.float32), epoch) for epoch in range(2)]
    assert (epochs[0] + epochs[1] == 1).all()
    assert epochs[0].sum() == pytest.approx(500, abs=5)


def test_windows_come_back_as_they_were_written(tmp_path: Path, window_params: Callable) -> None:
    stream = write(tmp_path, [[[5, 6, 7], [8]]])
    starts, lengths = window_spans(np.array([3, 1]), window_params(context_length=3, boundary="document"))
    write_windows(tmp_path / "train.parquet", starts, lengths, np.array([1, 2, 0.5], dtype=np.float32)[: len(starts)])
    windows = read_windows(tmp_path, "train")
    assert windows.stream.tolist() == stream.tolist()
    assert windows.starts.tolist() == starts.tolist()
    assert windows.lengths.tolist() == lengths.tolist()
    assert windows.weights.tolist() == [1, 2, 0.5][: len(starts)]


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
