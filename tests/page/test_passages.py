"""Held-out texts to begin with: evenly spaced, at the beginnings of documents, of whole words."""

import pytest

from llm.page.passages import PASSAGE_CHARS, read_passages

LINES = "".join(f"line {number} of it\n" for number in range(100))


@pytest.mark.parametrize(
    ("documents", "starts"),
    [
        ([f"{number} begins {LINES}" for number in range(9)], ["0 begins", "3 begins", "6 begins"]),
        ([f"{number} begins {LINES}" for number in range(4)], ["0 begins", "1 begins", "2 begins"]),
        (["first", LINES], ["first", "line 34"]),
        ([LINES], ["line 0", "line 34", "line 67"]),
        (["short"], ["short"]),
        ([], []),
    ],
)
def test_passages_are_evenly_spaced(tmp_path, write_corpus, documents, starts):
    write_corpus(tmp_path, {"test": {f"{at:02}.txt": text for at, text in enumerate(documents)}})
    passages = read_passages(tmp_path / "test.parquet")
    assert len(passages) == len(starts)
    assert all(text.startswith(start) for text, start in zip(passages, starts, strict=True)), passages
    assert all(len(text) <= PASSAGE_CHARS and not text[-1].isspace() for text in passages)
    words = set(" ".join(documents).split())
    assert all(word in words for text in passages for word in text.split())
