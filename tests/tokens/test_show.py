"""Rows of input and target as the notes draw them."""

from pathlib import Path

import numpy as np

from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import Windows, window_rows


def test_each_row_has_one_token_more_and_the_one_after_it_is_the_target(small_tokenizer_file: Path) -> None:
    tokenizer = Tokenizer.load(small_tokenizer_file)
    stream = np.array([0, *tokenizer.encode("the rain falls"), 0])
    windows = Windows(stream, np.array([1]), np.array([len(stream) - 2]), np.ones(1))
    rows = window_rows(windows, 0, 3, tokenizer)
    ids = stream[1:5].tolist()
    assert rows[:3] == [f"{ids[:n]} ----------> {ids[n]}" for n in (1, 2, 3)]
    texts = [tokenizer.decode(ids[:n]) for n in range(5)]
    assert rows[3:] == [f"{texts[n]!r} ----------> {texts[n + 1][len(texts[n]) :]!r}" for n in (1, 2, 3)]


def test_a_window_has_no_more_rows_than_targets_that_count(small_tokenizer_file: Path) -> None:
    windows = Windows(np.array([0, 70, 71, 0]), np.array([0, 2]), np.array([2, 1]), np.ones(2))
    tokenizer = Tokenizer.load(small_tokenizer_file)
    assert window_rows(windows, 0, 10, tokenizer)[:2] == ["[0] ----------> 70", "[0, 70] ----------> 71"]
    assert len(window_rows(windows, 0, 10, tokenizer)) == 4
    assert window_rows(windows, 1, 10, tokenizer)[0] == "[71] ----------> 0"
