"""Held-out text to begin with: the beginnings of documents, evenly spaced in a corpus table."""

from pathlib import Path

from llm.core.tables import iterate_rows

N_PASSAGES, PASSAGE_CHARS = 3, 300


def read_passages(corpus: Path) -> list[str]:
    """Return N_PASSAGES texts of about PASSAGE_CHARS; with fewer documents also later parts of them."""
    documents = [row["text"] for row in iterate_rows(corpus, ["text"])]
    places = [len(documents) * number / N_PASSAGES for number in range(N_PASSAGES)] if documents else []
    starts_late = len(documents) < N_PASSAGES
    found = [cut(documents[int(place)], place % 1 if starts_late else 0.0) for place in places]
    return [text for text in dict.fromkeys(found) if text]


def cut(text: str, place: float) -> str:
    r"""Return about PASSAGE_CHARS of whole words of a text, from the line behind a fraction of it on.

    >>> cut("one\ntwo three", 0.2), cut("a b", 0.0)
    ('two three', 'a b')
    """
    start = text.find("\n", int(len(text) * place)) + 1 if place else 0
    passage = text[start : start + PASSAGE_CHARS]
    words = passage.rsplit(maxsplit=1)
    return words[0] if len(text) > start + PASSAGE_CHARS and len(words) == 2 else passage.rstrip()
