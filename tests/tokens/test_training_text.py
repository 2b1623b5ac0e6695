"""Pieces of the training text: of all texts, and of no more bytes than requested."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.tokens.tokenize import sample_pieces


@given(st.lists(st.text("ab é雨\n👍", max_size=400), min_size=1, max_size=9), st.floats(0.01, 0.99))
def test_pieces_are_parts_of_the_texts(texts: list[str], fraction: float) -> None:
    n_bytes = sum(len(text.encode()) for text in texts)
    most = max(int(fraction * n_bytes), 1)
    pieces = list(sample_pieces(texts, n_bytes, most))
    assert len("".join(pieces).encode()) <= most
    assert all(any(piece in text for text in texts) for piece in pieces)


@pytest.mark.parametrize("sizes", [[1_000_000], [10] * 20_000, [100, 100_000] * 10, [5_000] * 40], ids=str)
@pytest.mark.parametrize("most", [3_000, 50_000])
def test_pieces_come_from_all_texts(sizes: list[int], most: int) -> None:
    texts = [f"{number:06d} " * (size // 7 + 1) for number, size in enumerate(sizes)]
    n_bytes = sum(map(len, texts))
    pieces = list(sample_pieces(texts, n_bytes, most))
    assert 0.9 * most < sum(map(len, pieces)) <= most
    long = sum(len(text) for text in texts if len(text) > 200) / n_bytes
    from_long = sum(len(piece) for piece in pieces if len(texts[int(piece.split()[0])]) > 200) / most
    assert from_long == pytest.approx(long, abs=0.1)
