"""Contamination against plain sets of tuples, in chunks of any size."""

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.tokens.contamination import Contamination, contamination

END = 2
TOKENS = st.sampled_from([0, 1, 3, 65535])
DOCUMENTS = st.lists(st.lists(TOKENS, max_size=12), max_size=5)
DTYPES = st.sampled_from([np.uint16, np.uint32])


def stream(documents: list[list[int]], dtype: type = np.uint16) -> np.ndarray:
    joined = [END] if documents else []
    for ids in documents:
        joined += [*ids, END]
    return np.array(joined, dtype=dtype)


def ngrams_of(ids: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


def drawn(n_tokens: int, seed: int) -> np.ndarray:
    """A document of tokens whose n-grams are all but surely distinct, as a stream."""
    tokens = np.random.default_rng(seed).integers(3, 60000, n_tokens)
    return np.concatenate([[END], tokens, [END]]).astype(np.uint16)


@given(DOCUMENTS, DOCUMENTS, st.integers(1, 5), st.integers(1, 9), DTYPES, DTYPES)
@example([], [], 1, 1, np.uint16, np.uint16)
@example([[0] * 9], [], 3, 4, np.uint16, np.uint32)
@example([], [[0] * 9, [], [1]], 3, 4, np.uint32, np.uint16)
def test_counts_are_those_of_plain_sets(
    train: list[list[int]], held_out: list[list[int]], n: int, chunk_tokens: int, train_dtype: type, held_dtype: type
) -> None:
    known = {ngram for ids in train for ngram in ngrams_of(ids, n)}
    expected = [
        [number, len(ngrams_of(ids, n)), sum(ngram in known for ngram in ngrams_of(ids, n))]
        for number, ids in enumerate(held_out)
    ]
    result = contamination(stream(train, train_dtype), stream(held_out, held_dtype), END, n, chunk_tokens=chunk_tokens)
    assert result.by_document.tolist() == expected
    assert result.by_document.shape == (len(held_out), 3)
    assert result.ngrams == sum(row[1] for row in expected)
    assert result.found == sum(row[2] for row in expected)
    assert result.sampled == 1


@pytest.mark.parametrize("chunk_tokens", range(1, 12))
def test_an_ngram_across_the_border_of_two_chunks_is_found(chunk_tokens: int) -> None:
    train, held_out = stream([[7, 8, 9, 10, 11, 12, 13]]), stream([[5, 5, 8, 9, 10, 11, 5, 5]])
    result = contamination(train, held_out, END, 4, chunk_tokens=chunk_tokens)
    assert (result.ngrams, result.found) == (5, 1)


def test_no_ngram_goes_across_the_end_of_a_document() -> None:
    apart, together = stream([[5, 6], [7, 8]]), stream([[5, 6, 7, 8]])
    assert contamination(apart, together, END, 3).found == 0
    assert contamination(together, apart, END, 3).ngrams == 0
    assert contamination(stream([[5, 6]]), stream([[6, 5]]), END, 2).found == 0  # order makes a difference


def test_tokens_of_32_bits_are_compared_whole() -> None:
    train = stream([[2**31 + 5, 7, 9]], np.uint32)
    assert contamination(train, stream([[2**31 + 5, 7, 9]], np.uint32), END, 3).found == 1
    assert contamination(train, stream([[5, 7, 9]], np.uint32), END, 3).found == 0
    assert contamination(train, stream([[2**16 + 2**31 + 5, 7, 9]], np.uint32), END, 3).found == 0


def test_the_share_is_of_the_ngrams_and_zero_of_none() -> None:
    nothing = np.zeros((0, 3), dtype=np.int64)
    assert Contamination(8, 2, nothing, 1).share == 0.25
    assert Contamination(0, 0, nothing, 1).share == 0.0


def test_memory_mapped_streams_are_read_as_they_are(tmp_path: Path) -> None:
    for split, documents in [("train", [[5, 6, 7, 8]]), ("val", [[6, 7, 8], [8, 7, 6]])]:
        np.save(tmp_path / f"{split}.npy", stream(documents))
    train, val = (np.load(tmp_path / f"{split}.npy", mmap_mode="r") for split in ("train", "val"))
    assert contamination(train, val, END, 3).by_document.tolist() == [[0, 1, 1], [1, 1, 0]]
    assert contamination(stream([]), val, END, 3).by_document.tolist() == [[0, 1, 0], [1, 1, 0]]
    assert contamination(train, stream([]), END, 3).by_document.tolist() == []


@pytest.mark.parametrize(("most", "sampled"), [(1000, 1), (999, 2), (500, 2), (499, 4), (250, 4), (3, 512), (1, 1024)])
def test_the_sample_is_the_smallest_power_of_two_that_fits(most: int, sampled: int) -> None:
    held_out = drawn(1004, seed=0)  # 1000 n-grams of 5
    assert contamination(held_out, held_out, END, 5, most_hashes=most).sampled == sampled


def test_a_sample_counts_its_own_ngrams_in_both_streams() -> None:
    held_out, other = drawn(40004, seed=0), drawn(40004, seed=1)
    same = contamination(held_out, held_out, END, 5, most_hashes=5000, chunk_tokens=700)
    assert same.sampled == 8
    assert abs(same.ngrams - 5000) < 5 * sqrt(40000 / 8 * 7 / 8)
    assert same.found == same.ngrams
    assert contamination(other, held_out, END, 5, most_hashes=5000).found == 0
    half = np.concatenate([held_out[:20003], [END]])
    share = contamination(half, held_out, END, 5, most_hashes=5000).share
    assert share == pytest.approx(0.5, abs=5 * sqrt(0.25 / same.ngrams))


@pytest.mark.parametrize("n", [1, 2])
def test_a_sample_of_small_tokens_is_no_special_one(n: int) -> None:
    # Neighbouring numbers have like bits; a hash that kept them would choose all of them or none.
    tokens = np.arange(3, 40003, dtype=np.uint16)
    held_out = np.concatenate([[END], tokens, [END]])
    n_ngrams = len(tokens) - n + 1
    result = contamination(held_out, held_out, END, n, most_hashes=n_ngrams // 4 + 1)
    assert result.sampled == 4
    assert abs(result.ngrams - n_ngrams / 4) < 5 * sqrt(n_ngrams / 4 * 3 / 4)
