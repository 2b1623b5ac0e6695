"""What comes out of a source: a document, or word of what could not be read.

    "data/raw/a.jsonl" ──► RawDocument("mine", "a.jsonl:1", "…"), Unreadable("mine", "a.jsonl:2", "bad_row", "…", 57)

Nothing is lost silently: what gives no document is named, and its source says whether that ends the run. An encoding
that may be wrong is named too, and how the rows of a table were found to be separated.
"""

from typing import NamedTuple


class RawDocument(NamedTuple):
    """A document as it was found: the source's name, a path within it, its text."""

    source: str
    path: str
    text: str


class Unreadable(NamedTuple):
    """Something that gave no document: which, why (a word to count by, and a line to read), and its bytes, if known."""

    source: str
    path: str
    reason: str
    problem: str
    n_bytes: int


class DoubtfulEncoding(NamedTuple):
    """A file whose encoding may be wrong: how it was found, and why there is a doubt (the confidence of a guess)."""

    source: str
    path: str
    encoding: str
    origin: str
    doubt: str


class FoundDialect(NamedTuple):
    """A table whose rows other characters than commas separate: which, and whether quotes enclose cells."""

    source: str
    path: str
    dialect: str


FileNote = DoubtfulEncoding | FoundDialect  # what the report says of a file
