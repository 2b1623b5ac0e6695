"""What a source yields: documents, what could not be read, and notes on files.

"data/raw/a.jsonl" ──► RawDocument("mine", "a.jsonl:1", "…"), Unreadable("mine", "a.jsonl:2", "bad_row", "…", 57)
"""

from typing import NamedTuple

# Kinds of FileNote.
DOUBTFUL_ENCODING = "doubtful_encoding"
DIALECT = "dialect"


class RawDocument(NamedTuple):
    """A document as it was found: the source's name, a path within it, its text."""

    source: str
    path: str
    text: str


class Unreadable(NamedTuple):
    """Content that gave no document: a reason to count by, a line that explains it, and its bytes, if known."""

    source: str
    path: str
    reason: str
    problem: str
    n_bytes: int


class FileNote(NamedTuple):
    """A note for the report: an encoding that may be wrong, or how the rows of a table are separated."""

    source: str
    path: str
    kind: str
    note: str


Found = RawDocument | Unreadable | FileNote
