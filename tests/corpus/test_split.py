"""What is held out: by a document's hash, or by the place within it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.corpus.clean import document_id
from llm.corpus.split import choose_method, cut, split_of
from llm.tokens.training_text import sample_pieces

IDS = [document_id(f"document {n}") for n in range(4000)]
SHARES = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))
ORDER = ("train", "val", "test")


def test_the_shares_of_documents_roughly_hold() -> None:
    counts = Counter(split_of(doc_id, val=0.1, test=0.2) for doc_id in IDS)
    # Four standard deviations of a binomial count of 4000 draws.
    assert counts["val"] == pytest.approx(400, abs=76)
    assert counts["test"] == pytest.approx(800, abs=101)
    assert counts["train"] == pytest.approx(2800, abs=116)


@given(st.sampled_from(IDS), SHARES)
def test_a_share_of_zero_holds_nothing_out(doc_id: str, shares: tuple[float, float]) -> None:
    assert split_of(doc_id, val=0, test=0) == "train"
    assert split_of(doc_id, val=0, test=shares[1]) != "val"
    assert split_of(doc_id, val=shares[0], test=0) != "test"


@given(st.sampled_from(IDS), st.floats(0, 0.4), st.floats(0, 0.2), st.floats(0, 0.3))
def test_a_larger_share_of_test_takes_documents_from_train_alone(doc_id: str, val: float, test: float, more: float):
    before, after = split_of(doc_id, val, test), split_of(doc_id, val, test + more)
    assert after == before or (before, after) == ("train", "test")


def test_the_first_and_the_last_id_have_a_split() -> None:
    assert split_of("0" * 32, val=0.1, test=0.1) == "val"
    assert split_of("f" * 32, val=0.1, test=0.1) == "train"


@given(st.text(max_size=300), SHARES)
def test_the_parts_of_a_text_in_their_order_are_the_text(text: str, shares: tuple[float, float]) -> None:
    parts = cut(text, *shares)
    assert list(parts) == [split for split in ORDER if split in parts]
    assert "".join(parts.values()) == text
    assert all(parts.values())


@given(st.integers(0, 5000), SHARES)
def test_the_parts_have_their_shares_to_a_character(length: int, shares: tuple[float, float]) -> None:
    sizes = {split: len(part) for split, part in cut("é" * length, *shares).items()}
    assert sizes.get("test", 0) == pytest.approx(length * shares[1], abs=1)
    assert sizes.get("val", 0) == pytest.approx(length * shares[0], abs=1)


def test_without_shares_all_of_a_text_trains() -> None:
    assert cut("abc", val=0, test=0) == {"train": "abc"}
    assert cut("", val=0.1, test=0.1) == {}


@given(
    st.lists(st.text("ab é雨\n👍", max_size=400), min_size=1, max_size=9),
    st.floats(0.01, 0.99),
)
def test_pieces_are_of_the_texts_and_of_no_more_bytes_than_asked_for(texts: list[str], share: float) -> None:
    n_bytes = sum(len(text.encode()) for text in texts)
    most = max(int(share * n_bytes), 1)
    pieces = list(sample_pieces(texts, n_bytes, most))
    assert len("".join(pieces).encode()) <= most
    assert all(any(piece in text for text in texts) for piece in pieces)


@pytest.mark.parametrize("sizes", [[1_000_000], [10] * 20_000, [100, 100_000] * 10, [5_000] * 40], ids=str)
@pytest.mark.parametrize("most", [3_000, 50_000])
def test_pieces_come_from_all_over_the_texts_however_long_these_are(sizes: list[int], most: int) -> None:
    texts = [f"{number:06d} " * (size // 7 + 1) for number, size in enumerate(sizes)]
    n_bytes = sum(map(len, texts))
    pieces = list(sample_pieces(texts, n_bytes, most))
    assert 0.9 * most < sum(map(len, pieces)) <= most
    long = sum(len(text) for text in texts if len(text) > 200) / n_bytes
    from_long = sum(len(piece) for piece in pieces if len(texts[int(piece.split()[0])]) > 200) / most
    assert from_long == pytest.approx(long, abs=0.1)


@pytest.mark.parametrize(
    ("n_bytes", "val", "test", "share", "method"),
    [
        ([1000], 0.05, 0.1, 1.0, "position"),
        ([1000] * 99, 0.05, 0.1, 1.0, "position"),
        ([1000] * 100, 0.05, 0.1, 1.0, "document"),
        ([1000] * 50, 0.0, 0.1, 1.0, "document"),  # the smaller one of those that hold something out
        ([1000] * 100, 0.05, 0.1, 0.5, "position"),
        ([1000] * 500 + [10_000_000], 0.05, 0.1, 1.0, "position"),
        ([*range(1000)], 0.05, 0.1, 1.0, "document"),
        ([1000], 0.0, 0.0, 1.0, "document"),
        ([], 0.1, 0.1, 1.0, "position"),
    ],
)
def test_whole_documents_are_held_out_where_there_are_enough_of_them(
    n_bytes: list[int], val: float, test: float, share: float, method: str
) -> None:
    assert choose_method(np.array(n_bytes, dtype=np.int64), val, test, share) == method
