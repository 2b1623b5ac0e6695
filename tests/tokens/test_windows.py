"""The token stream of a split, and the windows over it: each target is the input shifted by one."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.core.errors import UserError
from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import (
    Windows,
    WindowsInfo,
    read_info,
    read_stream,
    read_windows,
    repeats,
    target_coverage,
    window_rows,
    window_spans,
    write_info,
    write_stream,
    write_windows,
)

END = 0
BATCHES = st.lists(st.lists(st.lists(st.integers(1, 65535), max_size=12), max_size=8), max_size=4)
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=12)
CONTEXT, STRIDE = st.integers(2, 20), st.integers(1, 25)
INFO = WindowsInfo(300, END, 1, 8, 4, "cross", {"train": 5, "val": 0}, ["train-1"], True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("windows")


def write(folder, batches, vocab_size=1 << 16):
    batches = [[np.array(ids, dtype=np.uint32) for ids in batch] for batch in batches if batch]
    lengths = [np.array([len(ids) for ids in batch], dtype=np.int64) for batch in batches]
    pairs = [(np.concatenate(batch), of_batch) for batch, of_batch in zip(batches, lengths, strict=True)]
    write_stream(folder / "train.npy", pairs, np.concatenate([np.zeros(0, np.int64), *lengths]), END, vocab_size)
    return read_stream(folder, "train")


def layout(lengths):
    """Return the stream as (document, position); <|endoftext|> has position -1, the last one too."""
    documents = [[(n, -1), *((n, at) for at in range(length))] for n, length in enumerate(lengths)]
    return [token for document in documents for token in document] + [(len(lengths), -1)]


@given(batches=BATCHES)
def test_a_stream_has_an_end_before_and_after_each_document(folder, batches):
    documents = [ids for batch in batches for ids in batch]
    expected = [END] * bool(documents) + [token for ids in documents for token in [*ids, END]]
    assert write(folder, batches).tolist() == expected


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, "<u2"), ((1 << 16) + 1, "<u4")])
def test_a_stream_is_mapped_and_as_wide_as_its_vocabulary(vocab_size, dtype, tmp_path):
    stream = write(tmp_path, [[[1, 2], [3]]], vocab_size)
    assert stream.dtype == np.dtype(dtype)
    assert isinstance(stream, np.memmap)
    with pytest.raises(AssertionError, match="as many tokens as the header says"):
        write_stream(tmp_path / "x.npy", [(np.array([1, 2]), np.array([2]))], np.array([2, 3]), END, vocab_size)


@given(lengths=LENGTHS, context=CONTEXT, stride=STRIDE)
def test_crossing_windows_are_full_and_as_many_as_fit(lengths, context, stride, window_params):
    n_tokens = sum(lengths) + len(lengths) + 1
    starts, counting = window_spans(np.array(lengths), window_params(context_length=context, stride=stride))
    assert starts.tolist() == [stride * n for n in range(len(starts))]
    assert set(counting.tolist()) <= {context}
    assert all(start + context < n_tokens for start in starts)
    assert len(starts) * stride + context >= n_tokens
    starts, _ = window_spans(np.array(lengths), window_params(context_length=context, stride=1))
    times = Counter(at for start in starts.tolist() for at in range(start + 1, start + 1 + context))
    inner = range(context, n_tokens - context + 1)
    assert {at: times[at] for at in inner} == dict.fromkeys(inner, context)


@given(lengths=LENGTHS, context=CONTEXT, stride=STRIDE, aligned=st.booleans())
def test_windows_of_documents_lose_no_target(lengths, context, stride, aligned, window_params):
    tokens = layout(lengths)
    option = {"align_to_documents": True} if aligned else {"boundary": "document"}
    params = window_params(context_length=context, stride=stride, **option)
    starts, counting = window_spans(np.array(lengths), params)
    targets = Counter[int]()
    for start, length in zip(starts.tolist(), counting.tolist(), strict=True):
        assert 1 <= length <= context
        assert aligned or len({document for document, _ in tokens[start : start + length]}) == 1
        targets.update(range(start + 1, start + 1 + length))
    if stride <= context:
        assert set(targets) == set(range(1, len(tokens)))
    if aligned:
        assert {at for at, (_, position) in enumerate(tokens[:-1]) if position == -1} <= set(starts.tolist())
        assert counting.tolist() == [min(context, len(tokens) - 1 - start) for start in starts.tolist()]
    elif stride == context:
        assert set(targets.values()) == {1}


@pytest.mark.parametrize("boundary", ["cross", "document"])
def test_no_documents_make_no_windows(boundary, window_params):
    starts, lengths = window_spans(np.array([], dtype=np.int64), window_params(boundary=boundary))
    assert starts.tolist() == lengths.tolist() == []


@given(
    lengths=LENGTHS,
    context=CONTEXT,
    stride=STRIDE,
    boundary=st.sampled_from(["cross", "document"]),
    align=st.booleans(),
    weight=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_coverage_is_a_count_of_targets(lengths, context, stride, boundary, align, weight, window_params):
    n_targets = len(layout(lengths)) - 1
    params = window_params(context_length=context, stride=stride, boundary=boundary, align_to_documents=align)
    starts, counting = window_spans(np.array(lengths), params)
    windows = Windows(np.zeros(n_targets + 1), starts, counting, np.full(len(starts), weight, dtype=np.float32))
    times = Counter[int]()
    for start, length, n in zip(starts, counting, repeats(windows.weights, 0), strict=True):
        times.update({int(start) + 1 + at: int(n) for at in range(length)})
    seen = [times[at] for at in range(1, n_targets + 1)]
    expected = [seen.count(0), seen.count(1), sum(count > 1 for count in seen)]
    assert list(target_coverage(windows).values()) == pytest.approx([n / n_targets for n in expected], abs=1e-5)


@given(weight=st.floats(0, 5, width=32), n=st.integers(1, 50))
def test_over_many_epochs_a_window_repeats_as_its_weight_says(weight, n):
    weights = np.full(n, weight, dtype=np.float32)
    assert np.sum([repeats(weights, epoch) for epoch in range(200)], axis=0) == pytest.approx(200 * weight, abs=1)
    halves = [repeats(np.full(1000, 0.5, dtype=np.float32), epoch) for epoch in range(2)]
    assert (halves[0] + halves[1] == 1).all()
    assert halves[0].sum() == pytest.approx(500, abs=5)


def test_windows_and_info_are_read_as_written(tmp_path, window_params):
    stream = write(tmp_path, [[[5, 6, 7], [8]]])
    starts, lengths = window_spans(np.array([3, 1]), window_params(context_length=3, boundary="document"))
    weights = np.array([2, 0.5], dtype=np.float32)
    write_windows(tmp_path / "train.parquet", starts, lengths, weights)
    expected = (stream, starts, lengths, weights)
    assert all(map(np.array_equal, read_windows(tmp_path, "train"), expected))
    write_info(tmp_path / "windows.json", INFO)
    assert read_info(tmp_path) == INFO


@pytest.mark.parametrize("content", [None, "{", '{"vocab_size": 3}', json.dumps(vars(INFO) | {"more": 1}), "[]"])
def test_a_folder_of_something_else_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "windows.json").write_text(content)
        (tmp_path / "val.npy").write_text(content)
    with pytest.raises(UserError, match="expected a folder of windows"):
        read_info(tmp_path)
    with pytest.raises(UserError, match=r"val\.npy: expected a token stream"):
        read_stream(tmp_path, "val")


def test_rows_of_a_window_show_each_target(small_tokenizer_file):
    tokenizer = Tokenizer.load(small_tokenizer_file)
    stream = np.array([0, *tokenizer.encode("the rain falls"), 0])
    windows = Windows(stream, np.array([1, len(stream) - 2]), np.array([len(stream) - 2, 1]), np.ones(2))
    rows, ids = window_rows(windows, 0, 3, tokenizer), stream[1:5].tolist()
    assert rows[:3] == [f"{ids[:n]} ----------> {ids[n]}" for n in (1, 2, 3)]
    texts = [tokenizer.decode(ids[:n]) for n in range(5)]
    assert rows[3:] == [f"{texts[n]!r} ----------> {texts[n + 1][len(texts[n]) :]!r}" for n in (1, 2, 3)]
    assert window_rows(windows, 1, 10, tokenizer)[0] == f"[{stream[-2]}] ----------> 0"
    assert len(window_rows(windows, 1, 10, tokenizer)) == 2
