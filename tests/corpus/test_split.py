"""What is held out: by a document's hash, or by the place within it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.corpus.clean import document_id
from llm.corpus.split import choose_method, cut, split_of

IDS = [document_id(f"document {n}") for n in range(4000)]
FRACTIONS = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))


def test_fractions_of_documents_roughly_hold() -> None:
    counts = Counter(split_of(doc_id, val=0.1, test=0.2) for doc_id in IDS)
    # Four standard deviations of a binomial count of 4000 draws.
    assert counts["val"] == pytest.approx(400, abs=76)
    assert counts["test"] == pytest.approx(800, abs=101)


@given(st.sampled_from(["0" * 32, "f" * 32, *IDS]), st.floats(0, 0.4), st.floats(0, 0.2), st.floats(0, 0.3))
def test_a_larger_test_takes_from_train_alone(doc_id: str, val: float, test: float, more: float) -> None:
    before, after = split_of(doc_id, val, test), split_of(doc_id, val, test + more)
    assert after == before or (before, after) == ("train", "test")
    assert split_of(doc_id, 0, 0) == "train"
    assert split_of(doc_id, 0, test) != "val" and split_of(doc_id, val, 0) != "test"


@given(st.text(max_size=300) | st.integers(0, 5000).map(lambda n: "é" * n), FRACTIONS)
def test_parts_are_the_text_in_order(text: str, fractions: tuple[float, float]) -> None:
    parts = cut(text, *fractions)
    assert list(parts) == [split for split in ("train", "val", "test") if split in parts]
    assert "".join(parts.values()) == text and all(parts.values())
    assert len(parts.get("test", "")) == pytest.approx(len(text) * fractions[1], abs=1)
    assert len(parts.get("val", "")) == pytest.approx(len(text) * fractions[0], abs=1)


@pytest.mark.parametrize(
    ("n_bytes", "val", "test", "subset_fraction", "method"),
    [
        ([1000], 0.05, 0.1, 1.0, "position"),
        ([1000] * 99, 0.05, 0.1, 1.0, "position"),
        ([1000] * 100, 0.05, 0.1, 1.0, "document"),
        ([1000] * 50, 0.0, 0.1, 1.0, "document"),  # the smaller one of the splits that hold something out
        ([1000] * 100, 0.05, 0.1, 0.5, "position"),
        ([1000] * 500 + [10_000_000], 0.05, 0.1, 1.0, "position"),
        ([*range(1000)], 0.05, 0.1, 1.0, "document"),
        ([1000], 0.0, 0.0, 1.0, "document"),
        ([], 0.1, 0.1, 1.0, "position"),
    ],
)
def test_whole_documents_need_enough_documents(
    n_bytes: list[int], val: float, test: float, subset_fraction: float, method: str
) -> None:
    assert choose_method(np.array(n_bytes, dtype=np.int64), val, test, subset_fraction) == method
